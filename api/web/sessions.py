"""Sessions of the platform's pages: opening, finding, ending."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.db import Database
from api.identity import tokens
from api.identity.tables import User, WebSession
from api.principal import Principal, Role
from api.settings import Settings
from api.tenants.tables import Customer


@dataclass(frozen=True, slots=True)
class WebUser:
    """Who is signed in on the pages, as of this request."""

    principal: Principal
    email: str | None
    display_name: str
    customer_name: str | None
    must_change_password: bool
    password_changed_at: datetime | None
    session_id: int
    session_uid: UUID
    signed_in_at: datetime

    @property
    def is_admin(self) -> bool:
        return self.principal.role is Role.ADMIN


def open_web_session(database: Database, settings: Settings, *, user_id: int, address: str) -> str:
    """A new session for a user who has proven who they are; returns the cookie's secret."""
    secret = tokens.new_secret()

    def work(session: Session) -> None:
        user = session.get_one(User, user_id)
        web = WebSession(
            user_id=user_id, token_hash=tokens.hash_secret(secret), address=address,
            expires_at=utc_now() + timedelta(seconds=settings.web_session_s),
        )  # fmt: skip
        session.add(web)
        session.flush()
        record(
            session, actor=f"user:{user.uid}", action="web_session.open", target=f"web_session:{web.uid}",
            customer_id=user.customer_id, address=address,
        )  # fmt: skip

    database.transact(work)
    return secret


def find(database: Database, secret: str | None, *, address: str | None = None) -> WebUser | None:
    """The live session of a cookie's secret: not ended, not expired, its user and customer not disabled."""
    if not secret:
        return None
    return _find(database, tokens.hash_secret(secret), None, address)


def find_by_id(database: Database, session_id: int) -> WebUser | None:
    """The same, by the row's id."""
    return _find(database, None, session_id, None)


def end(database: Database, user: WebUser) -> None:
    """End a session, and with it what the OpenID clients got from it."""

    def work(session: Session) -> None:
        query = update(WebSession).where(WebSession.id == user.session_id, WebSession.revoked_at.is_(None))
        session.execute(query.values(revoked_at=utc_now()))
        record(
            session, actor=user.principal.actor, action="web_session.end", target=f"web_session:{user.session_uid}",
            customer_id=user.principal.customer_id, address=user.principal.address,
        )  # fmt: skip

    database.transact(work)


def _find(database: Database, token_hash: bytes | None, session_id: int | None, address: str | None) -> WebUser | None:
    wanted = WebSession.token_hash == token_hash if token_hash is not None else WebSession.id == session_id
    query = (
        select(User, WebSession, Customer)
        .join(WebSession, WebSession.user_id == User.id)
        .outerjoin(Customer, Customer.id == User.customer_id)
        .where(wanted, WebSession.revoked_at.is_(None), WebSession.expires_at > utc_now())
        .where(User.disabled_at.is_(None), Customer.disabled_at.is_(None))
    )
    with database.session() as session:
        row = session.execute(query).one_or_none()
    if row is None:
        return None
    user, web, customer = row
    principal = Principal(
        user_id=user.id, user_uid=user.uid, username=user.username, role=Role(user.role),
        customer_id=user.customer_id, address=address,
    )  # fmt: skip
    return WebUser(
        principal=principal,
        email=user.email,
        display_name=user.display_name,
        customer_name=customer.name if customer else None,
        must_change_password=user.must_change_password,
        password_changed_at=user.password_changed_at,
        session_id=web.id,
        session_uid=web.uid,
        signed_in_at=web.created_at,
    )
