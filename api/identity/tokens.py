"""Access tokens (JWT, signed) and opaque secrets (kept as hashes)."""

import hashlib
import secrets
import time
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import extract_compact
from joserfc.jwt import JWTClaimsRegistry

from api.errors import Unauthenticated
from api.identity.signing_keys import ALGORITHM, KeyRing

API_AUDIENCE = "remotegpu-api"
_ACCESS_TYPE = "at+jwt"
_MAX_TOKEN_CHARS = 4096


def new_secret(prefix: str = "") -> str:
    """256 random bits, URL-safe."""
    return prefix + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> bytes:
    """What is stored of a random secret. A plain hash is enough: 256 bits can't be guessed."""
    return hashlib.sha256(secret.encode()).digest()


def issue(
    keys: KeyRing, *, issuer: str, audience: str, subject: UUID, lifetime_s: int, token_type: str = _ACCESS_TYPE,
    claims: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """A signed token."""
    loaded = keys.current()
    now = int(time.time())
    payload = {
        "iss": issuer, "aud": audience, "sub": str(subject), "iat": now, "exp": now + lifetime_s,
        "jti": secrets.token_urlsafe(12), **(claims or {}),
    }  # fmt: skip
    header = {"alg": ALGORITHM, "kid": loaded.signing_kid, "typ": token_type}
    return jwt.encode(header, payload, loaded.signing, algorithms=[ALGORITHM])


def verify(keys: KeyRing, token: str, *, issuer: str, audience: str, token_type: str = _ACCESS_TYPE) -> dict[str, Any]:
    """The claims of a token that we signed, for this audience, and that has not expired.

    Raises:
        Unauthenticated
    """
    refused = Unauthenticated("The access token is not valid or has expired; sign in again or refresh it.")
    if len(token) > _MAX_TOKEN_CHARS:
        raise refused
    try:
        key = keys.verifying(_key_id(token))
        if key is None:
            raise refused
        decoded = jwt.decode(token, key, algorithms=[ALGORITHM])
        registry = JWTClaimsRegistry(
            iss={"essential": True, "value": issuer}, aud={"essential": True, "value": audience},
            sub={"essential": True}, exp={"essential": True},
        )  # fmt: skip
        registry.validate(decoded.claims)
    except (JoseError, ValueError) as error:
        raise refused from error
    if decoded.header.get("typ") != token_type:
        raise refused
    return decoded.claims


def _key_id(token: str) -> str:
    kid = extract_compact(token.encode()).headers().get("kid")
    if not isinstance(kid, str):
        raise ValueError("no key id")
    return kid
