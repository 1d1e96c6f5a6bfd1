"""Authorisation codes: issuing one, and redeeming it exactly once."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.db import Database
from api.identity import tokens
from api.oidc.tables import AuthorizationCode
from api.web.sessions import WebUser

_LIFETIME = timedelta(seconds=60)
_KEPT = timedelta(days=1)  # used ones: as long as a nonce is remembered


@dataclass(frozen=True, slots=True)
class Grant:
    """What a code stands for; Authlib's `AuthorizationCodeMixin` by shape."""

    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str
    auth_time: int
    web_session_id: int
    code_challenge_method: str = "S256"

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.auth_time

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> list[str]:
        return ["pwd"]


def save(database: Database, code: str, *, client_id: str, user: WebUser, grant: Grant) -> None:
    """Keep a fresh code, and forget those that are long over."""

    def work(session: Session) -> None:
        session.execute(delete(AuthorizationCode).where(AuthorizationCode.expires_at < utc_now() - _KEPT))
        session.add(
            AuthorizationCode(
                code_hash=tokens.hash_secret(code),
                client_id=client_id,
                user_id=user.principal.user_id,
                web_session_id=grant.web_session_id,
                redirect_uri=grant.redirect_uri,
                scope=grant.scope,
                nonce=grant.nonce,
                code_challenge=grant.code_challenge,
                auth_time=grant.auth_time,
                expires_at=utc_now() + _LIFETIME,
            )
        )

    database.transact(work)


def redeem(database: Database, code: str, *, client_id: str) -> Grant | None:
    """What the code stands for, and its end: whatever is wrong with the rest of the request, it is used up."""

    def work(session: Session) -> AuthorizationCode | None:
        return session.scalar(
            update(AuthorizationCode)
            .where(AuthorizationCode.code_hash == tokens.hash_secret(code), AuthorizationCode.client_id == client_id)
            .where(AuthorizationCode.used_at.is_(None), AuthorizationCode.expires_at > utc_now())
            .values(used_at=utc_now())
            .returning(AuthorizationCode)
        )

    row = database.transact(work)
    if row is None:
        return None
    return Grant(
        redirect_uri=row.redirect_uri, scope=row.scope, nonce=row.nonce, code_challenge=row.code_challenge,
        auth_time=row.auth_time, web_session_id=row.web_session_id,
    )  # fmt: skip


def nonce_was_used(database: Database, nonce: str, *, client_id: str) -> bool:
    """Whether a code was issued for this nonce before."""
    query = select(AuthorizationCode.id).where(
        AuthorizationCode.client_id == client_id, AuthorizationCode.nonce == nonce
    )
    with database.session() as session:
        return session.scalar(query.limit(1)) is not None
