"""The OpenID provider: Authlib's authorisation server over our sessions, codes and signing keys.

Authlib has no server for Starlette, so this is its abstract server with our requests and responses.
"""

import time
from collections import defaultdict
from typing import Any
from urllib.parse import parse_qsl

from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import InvalidRequestError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import OAuth2Payload
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core.grants import OpenIDCode
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from api.db import Database
from api.identity import tokens
from api.identity.signing_keys import ALGORITHM, KeyRing
from api.oidc import codes
from api.oidc.clients import SCOPES, Client, find_client
from api.oidc.codes import Grant
from api.settings import Settings
from api.web.sessions import WebUser, find_by_id

ACCESS_TOKEN_S = 300
_ID_TOKEN_S = 300


class _Payload(OAuth2Payload):
    """The parameters of a request, each with all of its values: repeated ones are an error."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs
        self._values: defaultdict[str, list[str]] = defaultdict(list)
        for name, value in pairs:
            self._values[name].append(value)

    @property
    def data(self) -> dict[str, str]:
        return {name: values[0] for name, values in self._values.items()}

    @property
    def datalist(self) -> defaultdict[str, list[str]]:
        return self._values


class _Request(OAuth2Request):
    """A request whose body was read already. Headers stay Starlette's own object, which ignores case.

    Raises:
        InvalidRequestError: a parameter has characters that OAuth has no place for (RFC 6749, appendix A). Authlib
            would repeat them in its own errors, which may not hold them either, and fail.
    """

    def __init__(self, request: Request, form: dict[str, str]) -> None:
        # Whether plain HTTP is good enough is the operator's decision, not Authlib's: it is told `https` always.
        super().__init__(request.method, str(request.url.replace(scheme="https")), headers=request.headers)
        query = parse_qsl(request.url.query, keep_blank_values=True)
        self._args = dict(query)
        self._form = form
        self.payload = _Payload([*query, *form.items()])
        if any(not " " <= character <= "~" for pair in self.payload.pairs for text in pair for character in text):
            raise InvalidRequestError("A parameter has other characters than those of printable ASCII.")

    @property
    def args(self) -> dict[str, str]:
        return self._args

    @property
    def form(self) -> dict[str, str]:
        return self._form


class Provider(AuthorizationServer):
    """One per application."""

    def __init__(self, database: Database, keys: KeyRing, settings: Settings) -> None:
        super().__init__(scopes_supported=list(SCOPES))
        self.database = database
        self.keys = keys
        self.settings = settings
        self.register_token_generator("default", self._tokens)
        self.register_grant(_CodeGrant, [_Pkce(required=True), _IdToken(self)])

    def query_client(self, client_id: str) -> Client | None:
        return find_client(self.settings, client_id)

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        """Nothing to save: access tokens are signed and short-lived, and end with the session that they name."""

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens to Authlib's signals here."""

    def create_oauth2_request(self, request: Any) -> OAuth2Request:
        return request if isinstance(request, OAuth2Request) else _Request(request, {})

    def handle_response(self, status: int, body: Any, headers: Any) -> Response:
        sent = dict(headers)
        return JSONResponse(body, status, sent) if isinstance(body, dict) else Response(body, status, sent)

    def token_response(self, request: Request, form: dict[str, str]) -> Response:
        """The token endpoint."""
        try:
            asked = _Request(request, form)
        except InvalidRequestError as error:
            return self.handle_error_response(request, error)  # type: ignore[no-any-return]  # Authlib is untyped
        return self.create_token_response(asked)  # type: ignore[no-any-return]  # as above

    def _tokens(self, *, client: Client, user: WebUser, scope: str, **_unused: Any) -> dict[str, Any]:
        access_token = tokens.issue(
            self.keys,
            issuer=self.settings.public_url,
            audience=userinfo_audience(self.settings),
            subject=user.principal.user_uid,
            lifetime_s=ACCESS_TOKEN_S,
            claims={"ws": user.session_id, "scope": scope, "client_id": client.client_id},
        )
        return {"token_type": "Bearer", "access_token": access_token, "expires_in": ACCESS_TOKEN_S, "scope": scope}


class _CodeGrant(AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")
    server: Provider

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        user: WebUser = request.user
        client: Client = request.client
        grant = Grant(
            redirect_uri=request.payload.redirect_uri or client.redirect_uri,
            scope=client.get_allowed_scope(request.payload.scope),
            nonce=request.payload.data.get("nonce"),
            code_challenge=request.payload.data["code_challenge"],
            auth_time=int(user.signed_in_at.timestamp()),
            web_session_id=user.session_id,
        )
        codes.save(self.server.database, code, client_id=client.client_id, user=user, grant=grant)

    def query_authorization_code(self, code: str, client: Client) -> Grant | None:
        return codes.redeem(self.server.database, code, client_id=client.client_id)

    def delete_authorization_code(self, authorization_code: Grant) -> None:
        """It was used up when it was looked up."""

    def authenticate_user(self, authorization_code: Grant) -> WebUser | None:
        return find_by_id(self.server.database, authorization_code.web_session_id)


class _Pkce(CodeChallenge):
    """S256 of everybody: Authlib asks only public clients for it."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        data = grant.request.payload.data
        if not data.get("code_challenge") or data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is required: send 'code_challenge' with method S256.")
        super().validate_code_challenge(grant, redirect_uri)


class _IdToken(OpenIDCode):
    def __init__(self, provider: Provider) -> None:
        super().__init__(require_nonce=False)
        self._provider = provider

    def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
        return codes.nonce_was_used(self._provider.database, nonce, client_id=request.payload.client_id)

    def resolve_client_private_key(self, client: Client) -> Any:
        return self._provider.keys.current().signing

    def get_client_algorithm(self, client: Client) -> str:
        return ALGORITHM

    def get_encode_header(self, client: Client) -> dict[str, str]:
        return {"alg": ALGORITHM, "kid": self._provider.keys.current().signing_kid, "typ": "JWT"}

    def get_client_claims(self, client: Client) -> dict[str, Any]:
        issuer = self._provider.settings.public_url
        return {"iss": issuer, "aud": client.client_id, "exp": int(time.time()) + _ID_TOKEN_S}

    def generate_user_info(self, user: WebUser, scope: str) -> dict[str, Any]:
        return claims_of(user, scope)


def userinfo_audience(settings: Settings) -> str:
    """The audience of the provider's access tokens: good at `/oauth/userinfo`, refused by the API."""
    return f"{settings.public_url}/oauth/userinfo"


def claims_of(user: WebUser, scope: str) -> dict[str, Any]:
    """What a client learns of a user."""
    names = scope.split()
    claims: dict[str, Any] = {"sub": str(user.principal.user_uid)}
    if "profile" in names:
        changed_at = user.password_changed_at
        claims |= {
            "preferred_username": user.principal.username,
            "name": user.display_name or user.principal.username,
            "role": user.principal.role,
            "customer": user.customer_name,
            "password_changed_at": changed_at.isoformat() if changed_at else None,
        }
    if "email" in names and user.email:
        claims |= {"email": user.email, "email_verified": False}
    return claims
