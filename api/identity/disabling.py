"""Shutting a user out: what they hold is refused, and what they run is stopped in order."""

from dataclasses import asdict
from uuid import UUID

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.environments.ending import Owner, Stopped, stop_all
from api.errors import Conflict
from api.identity import users
from api.identity.schemas import UserView
from api.identity.tables import ApiKey, User
from api.principal import Principal
from api.tenants.tables import Customer

_REASON = "its user was disabled"


def disable(session: Session, principal: Principal, uid: UUID, *, scope: Select[User]) -> UserView:
    """Refuse a user of `scope` from now on: sessions end, API keys are revoked, what runs or waits is asked to end.

    Repeatable. What belongs to the customer stays: volumes, and reservations, which its owner may cancel.

    Raises:
        NotFound
        Conflict: nobody disables themselves (`own_account`).
    """
    _lock_customer(session, uid, scope=scope)
    user = users.find(session, uid, scope=scope)
    if user.id == principal.user_id:
        raise Conflict("You can't disable yourself.", code="own_account")
    fresh = user.disabled_at is None
    if fresh:
        user.disabled_at = utc_now()
    users.end_sessions(session, user)
    done = asdict(_stop(session, principal, user)) | {"api_keys": _revoke_keys(session, user)}
    if fresh or any(done.values()):
        users.audit(session, principal, user, "user.disable", details=done)
    return users.user_view(session, user)


def enable(session: Session, principal: Principal, uid: UUID, *, scope: Select[User]) -> UserView:
    """Let a user of `scope` in again. Nothing starts by itself, and no API key comes back.

    Raises:
        NotFound
    """
    user = users.find(session, uid, scope=scope)
    if user.disabled_at is not None:
        user.disabled_at = None
        users.audit(session, principal, user, "user.enable")
    return users.user_view(session, user)


def _lock_customer(session: Session, uid: UUID, *, scope: Select[User]) -> None:
    """Before the user's row, as a submission does, which looks at the user under this lock: none slips past."""
    customer_id = scope.where(User.uid == uid).with_only_columns(User.customer_id).scalar_subquery()
    session.execute(select(Customer.id).where(Customer.id == customer_id).with_for_update())


def _stop(session: Session, principal: Principal, user: User) -> Stopped:
    if user.customer_id is None:
        return Stopped(0, 0, 0)  # an administrator rents nothing
    return stop_all(session, Owner(user.customer_id, user.id), actor=principal.actor, reason=_REASON)


def _revoke_keys(session: Session, user: User) -> int:
    revoked = session.scalars(
        update(ApiKey)
        .where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=utc_now())
        .returning(ApiKey.id)
    )
    return len(revoked.all())
