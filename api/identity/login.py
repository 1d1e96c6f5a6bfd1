"""Proving a password: one answer for every failure, and a lock that grows with them."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.db import Database
from api.errors import Forbidden, Unauthenticated
from api.identity.passwords import verify_password
from api.identity.tables import User
from api.tenants.tables import Customer

FREE_FAILURES = 5
_LONGEST_LOCK = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Proven:
    user_id: int
    must_change_password: bool


def lock_duration(failed_logins: int) -> timedelta | None:
    """How long the account takes no password after so many failures in a row: 2 s after the fifth, then doubling."""
    excess = failed_logins - FREE_FAILURES
    if excess < 0:
        return None
    return min(timedelta(seconds=2 ** min(excess + 1, 20)), _LONGEST_LOCK)


def prove_password(database: Database, *, username: str, password: str, address: str | None) -> Proven:
    """Check a user's password.

    An unknown user, a wrong password and a locked account take the same time and get the same error. Attempts while
    the account is locked are not counted, so that nobody can keep it locked by going on.

    Raises:
        Unauthenticated: `invalid_credentials`.
        Forbidden: `account_disabled`, to whoever knows the password.
    """
    with database.session() as session:
        known = session.execute(select(User.id, User.password_hash).where(User.username == username)).one_or_none()
    # Outside of any transaction: this takes long by design.
    right = verify_password(password, known.password_hash if known else None)
    proven = None
    if known is not None:
        user_id, used_hash = known.id, known.password_hash
        proven = database.transact(
            lambda session: _settle(session, user_id, used_hash=used_hash, right=right, address=address)
        )
    if proven is None:
        raise Unauthenticated(
            "The user name or password is wrong, or there were too many attempts; wait a little and try again.",
            code="invalid_credentials",
        )
    return proven


def _settle(session: Session, user_id: int, *, used_hash: str, right: bool, address: str | None) -> Proven | None:
    """Count the attempt under the user's row lock, so that guesses in parallel gain nothing."""
    user = session.scalars(select(User).where(User.id == user_id).with_for_update()).one()
    now = utc_now()
    if user.locked_until is not None and user.locked_until > now:
        return None
    if not right or user.password_hash != used_hash:
        user.failed_logins += 1
        duration = lock_duration(user.failed_logins)
        if duration is not None:
            user.locked_until = now + duration
            record(
                session, actor=f"user:{user.uid}", action="user.lock", target=f"user:{user.uid}",
                customer_id=user.customer_id, address=address, details={"failed_logins": user.failed_logins},
            )  # fmt: skip
        return None
    user.failed_logins = 0
    user.locked_until = None
    _refuse_disabled(session, user)
    return Proven(user.id, user.must_change_password)


def _refuse_disabled(session: Session, user: User) -> None:
    customer = session.get(Customer, user.customer_id) if user.customer_id is not None else None
    if user.disabled_at is not None or (customer is not None and customer.disabled_at is not None):
        raise Forbidden("The account is disabled; ask your administrator.", code="account_disabled")
