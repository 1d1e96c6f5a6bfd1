"""From a bearer credential to the principal: an access token or an API key, looked up again at every request.

The look-up is what makes a disabled user or customer, a logout or a revoked key take effect at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.db import Database
from api.errors import Unauthenticated
from api.identity import tokens
from api.identity.signing_keys import KeyRing
from api.identity.tables import ApiKey, LoginSession, User
from api.principal import Principal, Role
from api.reading import Statement
from api.settings import Settings
from api.tenants.tables import Customer

KEY_PREFIX = "rgpu_"
_LAST_USED_STEP = timedelta(minutes=1)  # `last_used_at` is written no more often than this

_USER = (
    User.id, User.uid, User.username, User.role, User.customer_id, User.must_change_password,
)  # fmt: skip
_BY_SESSION = Statement(
    select(*_USER)
    .join(LoginSession, LoginSession.user_id == User.id)
    .outerjoin(Customer, Customer.id == User.customer_id)
    .where(User.uid == bindparam("user"), LoginSession.uid == bindparam("session"), LoginSession.revoked_at.is_(None))
    .where(User.disabled_at.is_(None), Customer.disabled_at.is_(None))
)
_BY_KEY = Statement(
    select(*_USER, ApiKey.uid, ApiKey.scopes, ApiKey.last_used_at)
    .join(ApiKey, ApiKey.user_id == User.id)
    .join(Customer, Customer.id == ApiKey.customer_id)
    .where(ApiKey.key_hash == bindparam("key_hash"), ApiKey.revoked_at.is_(None))
    .where(or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > bindparam("now")))
    .where(User.customer_id == ApiKey.customer_id)
    .where(User.disabled_at.is_(None), Customer.disabled_at.is_(None))
)


@dataclass(frozen=True, slots=True)
class Authenticated:
    principal: Principal
    must_change_password: bool


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Checks credentials of the public listener."""

    database: Database
    keys: KeyRing
    issuer: str
    settings: Settings

    async def authenticate(self, authorization: str | None, *, address: str | None) -> Authenticated:
        """The principal behind an `Authorization` header.

        Raises:
            Unauthenticated
        """
        scheme, _, credential = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("Sign in first: send `Authorization: Bearer` with an access token or an API key.")
        if credential.startswith(KEY_PREFIX):
            return await self._by_key(credential, address)
        return await self._by_token(credential, address)

    async def _by_token(self, token: str, address: str | None) -> Authenticated:
        # In a thread: it may look up keys, and the arithmetic of a signature takes as long as a whole request.
        claims = await run_in_threadpool(
            tokens.verify, self.keys, token, issuer=self.issuer, audience=tokens.API_AUDIENCE
        )
        try:
            user_uid, session_uid = UUID(claims["sub"]), UUID(claims["sid"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Unauthenticated("The access token is not valid; sign in again.") from error
        rows = await self.database.read(_BY_SESSION, {"user": user_uid, "session": session_uid})
        if not rows:
            raise Unauthenticated("The session has ended, or the account is disabled; sign in again.")
        (user,) = rows
        return _authenticated(user, address=address, session_uid=session_uid)

    async def _by_key(self, key: str, address: str | None) -> Authenticated:
        rows = await self.database.read(_BY_KEY, {"key_hash": tokens.hash_secret(key), "now": utc_now()})
        if not rows:
            raise Unauthenticated("The API key is unknown, expired or revoked, or its owner is disabled.")
        (*user, key_uid, scopes, last_used_at) = rows[0]
        await self._note_use(key_uid, last_used_at)
        return _authenticated(user, address=address, scopes=frozenset(scopes), key_uid=key_uid)

    async def _note_use(self, key_uid: UUID, last_used_at: datetime | None) -> None:
        now = utc_now()
        if last_used_at is not None and now - last_used_at < _LAST_USED_STEP:
            return

        def note(session: Session) -> None:
            session.execute(update(ApiKey).where(ApiKey.uid == key_uid).values(last_used_at=now))

        await run_in_threadpool(self.database.transact, note)


def _authenticated(
    user: Sequence[Any],  # the columns of `_USER`
    *,
    address: str | None,
    scopes: frozenset[str] | None = None,
    key_uid: UUID | None = None,
    session_uid: UUID | None = None,
) -> Authenticated:
    user_id, user_uid, username, role, customer_id, must_change_password = user
    principal = Principal(
        user_id=user_id,
        user_uid=user_uid,
        username=username,
        role=Role(role),
        customer_id=customer_id,
        scopes=scopes,
        key_uid=key_uid,
        session_uid=session_uid,
        address=address,
    )
    return Authenticated(principal, must_change_password)
