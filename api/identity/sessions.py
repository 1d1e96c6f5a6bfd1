"""Login sessions of the API: opening, refreshing with rotation and reuse detection, ending."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.db import Database
from api.errors import Unauthenticated
from api.identity import tokens
from api.identity.signing_keys import KeyRing
from api.identity.tables import LoginSession, RefreshToken, User
from api.settings import Settings
from api.tenants.tables import Customer


@dataclass(frozen=True, slots=True)
class TokenPair:
    access_token: str
    refresh_token: str
    expires_in_s: int
    must_change_password: bool


def open_session(
    database: Database, keys: KeyRing, settings: Settings, *, user_id: int, address: str | None
) -> TokenPair:
    """A new session for a user who has proven who they are."""

    def work(session: Session) -> tuple[User, LoginSession, str]:
        user = session.get_one(User, user_id)
        login = LoginSession(user_id=user_id, address=address, expires_at=_expiry(settings))
        session.add(login)
        session.flush()
        record(
            session, actor=f"user:{user.uid}", action="session.open", target=f"session:{login.uid}",
            customer_id=user.customer_id, address=address,
        )  # fmt: skip
        return user, login, _add_refresh_token(session, login)

    user, login, refresh_token = database.transact(work)
    return _pair(keys, settings, user=user, login=login, refresh_token=refresh_token)


def refresh(database: Database, keys: KeyRing, settings: Settings, *, refresh_token: str) -> TokenPair:
    """Trade a refresh token for new ones.

    Raises:
        Unauthenticated: unknown, expired, or used before; the last also ends the session, since two hold the token.
    """

    def work(session: Session) -> tuple[User, LoginSession, str] | None:
        found = session.execute(
            select(RefreshToken, LoginSession)
            .join(LoginSession, LoginSession.id == RefreshToken.session_id)
            .where(RefreshToken.token_hash == tokens.hash_secret(refresh_token))
            .with_for_update()
        ).one_or_none()
        if found is None:
            return None
        token, login = found
        if login.revoked_at is not None or login.expires_at <= utc_now():
            return None
        if token.used_at is not None:
            _revoke_for_reuse(session, login)
            return None
        user = _usable_user(session, login.user_id)
        if user is None:
            return None
        token.used_at = utc_now()
        login.expires_at = _expiry(settings)
        return user, login, _add_refresh_token(session, login)

    done = database.transact(work)
    if done is None:
        raise Unauthenticated("The refresh token is not valid any more; sign in again.", code="invalid_refresh_token")
    user, login, new_token = done
    return _pair(keys, settings, user=user, login=login, refresh_token=new_token)


def end_session(database: Database, *, refresh_token: str, address: str | None) -> None:
    """End the session of a refresh token; nothing happens if there is none."""

    def work(session: Session) -> None:
        login = session.scalar(
            select(LoginSession)
            .join(RefreshToken, RefreshToken.session_id == LoginSession.id)
            .where(RefreshToken.token_hash == tokens.hash_secret(refresh_token), LoginSession.revoked_at.is_(None))
            .with_for_update(of=LoginSession)
        )
        if login is None:
            return
        login.revoked_at = utc_now()
        user = session.get_one(User, login.user_id)
        record(
            session, actor=f"user:{user.uid}", action="session.end", target=f"session:{login.uid}",
            customer_id=user.customer_id, address=address,
        )  # fmt: skip

    database.transact(work)


def revoke_login_sessions(session: Session, user_id: int, *, keep: UUID | None = None) -> None:
    """End every API session of a user but `keep`, in the caller's transaction."""
    query = update(LoginSession).where(LoginSession.user_id == user_id, LoginSession.revoked_at.is_(None))
    if keep is not None:
        query = query.where(LoginSession.uid != keep)
    session.execute(query.values(revoked_at=utc_now()))


def _revoke_for_reuse(session: Session, login: LoginSession) -> None:
    login.revoked_at = utc_now()
    user = session.get_one(User, login.user_id)
    record(
        session, actor=f"user:{user.uid}", action="session.refresh_token_reused", target=f"session:{login.uid}",
        customer_id=user.customer_id,
    )  # fmt: skip


def _usable_user(session: Session, user_id: int) -> User | None:
    return session.scalar(
        select(User)
        .outerjoin(Customer, Customer.id == User.customer_id)
        .where(User.id == user_id, User.disabled_at.is_(None), Customer.disabled_at.is_(None))
    )


def _add_refresh_token(session: Session, login: LoginSession) -> str:
    secret = tokens.new_secret("rgpur_")
    session.add(RefreshToken(session_id=login.id, token_hash=tokens.hash_secret(secret)))
    return secret


def _expiry(settings: Settings) -> datetime:
    return utc_now() + timedelta(seconds=settings.refresh_token_s)


def _pair(keys: KeyRing, settings: Settings, *, user: User, login: LoginSession, refresh_token: str) -> TokenPair:
    access_token = tokens.issue(
        keys, issuer=settings.public_url, audience=tokens.API_AUDIENCE, subject=user.uid,
        lifetime_s=settings.access_token_s, claims={"sid": str(login.uid), "role": user.role},
    )  # fmt: skip
    return TokenPair(access_token, refresh_token, settings.access_token_s, user.must_change_password)
