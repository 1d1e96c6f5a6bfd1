"""Users: creating, showing, changing, ending their sessions."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.errors import Conflict, NotFound
from api.identity.passwords import hash_password, new_password
from api.identity.schemas import CustomerName, Me, UserView
from api.identity.sessions import revoke_login_sessions
from api.identity.tables import User, WebSession
from api.principal import Principal, Role
from api.tenants.tables import Customer


@dataclass(frozen=True, slots=True)
class FirstPassword:
    """A password that somebody chose, or a generated one, with its hash: made before the transaction, as it is slow."""

    generated: str | None
    hashed: str
    must_change: bool

    @classmethod
    def of(cls, chosen: str | None) -> "FirstPassword":
        """For a user whom somebody else creates: to be changed at the first sign-in either way."""
        generated = None if chosen is not None else new_password()
        return cls(generated, hash_password(chosen or generated or ""), True)

    @classmethod
    def own(cls, chosen: str) -> "FirstPassword":
        """For a user who chose it in person."""
        return cls(None, hash_password(chosen), False)


def create_user(
    session: Session,
    *,
    username: str,
    email: str | None,
    role: Role,
    customer_id: int | None,
    password: FirstPassword,
) -> User:
    """Add a user.

    Raises:
        Conflict: `username_taken` or `email_taken`.
    """
    user = User(
        username=username,
        email=email,
        role=role,
        customer_id=customer_id,
        password_hash=password.hashed,
        must_change_password=password.must_change,
    )
    try:
        with session.begin_nested():
            session.add(user)
            session.flush()
    except IntegrityError as error:
        if "uq_users_email" in str(error.orig):
            raise Conflict("This e-mail address is in use already.", code="email_taken") from error
        raise Conflict(f"The user name {username!r} is taken; choose another.", code="username_taken") from error
    return user


def me(session: Session, principal: Principal) -> Me:
    """The principal's own profile."""
    user = session.get_one(User, principal.user_id)
    return Me(
        id=user.uid,
        username=user.username,
        email=user.email,
        display_name=user.display_name,
        role=Role(user.role),
        customer=_customer_name(session, user),
        must_change_password=user.must_change_password,
    )


def user_view(session: Session, user: User) -> UserView:
    """A user as others see one."""
    return _view(user, _customer_name(session, user))


def joined_view(user: User, customer: Customer | None) -> UserView:
    """The same, where the customer was joined already."""
    return _view(user, CustomerName(id=customer.uid, name=customer.name) if customer else None)


def change_profile(session: Session, principal: Principal, changes: dict[str, str | None]) -> Me:
    """Set e-mail address or display name.

    Raises:
        Conflict: `email_taken`.
    """
    user = session.get_one(User, principal.user_id, with_for_update=True)
    try:
        with session.begin_nested():
            for name, value in changes.items():
                setattr(user, name, value if name == "email" else value or "")
            session.flush()
    except IntegrityError as error:
        raise Conflict("This e-mail address is in use already.", code="email_taken") from error
    audit(session, principal, user, "user.change_profile", details={"fields": sorted(changes)})
    return me(session, principal)


def find(session: Session, uid: UUID, *, scope: Select[User]) -> User:
    """The user with this id among those of `scope`, its row locked.

    Raises:
        NotFound
    """
    user = session.scalar(scope.where(User.uid == uid).with_for_update())
    if user is None:
        raise NotFound("There is no such user.")
    return user


def of_customer(customer_id: int) -> Select[User]:
    """The users of one customer."""
    return select(User).where(User.customer_id == customer_id)


def set_password(session: Session, user: User, password: FirstPassword, *, keep_session: UUID | None = None) -> None:
    """Replace the password and end every session, but for the one that asks. The Hub reads of it, and ends its own."""
    user.password_hash = password.hashed
    user.must_change_password = password.must_change
    user.password_changed_at = utc_now()
    user.failed_logins = 0
    user.locked_until = None
    end_sessions(session, user, keep=keep_session)


def end_sessions(session: Session, user: User, *, keep: UUID | None = None) -> None:
    """End all of a user's sessions, at the API and on the pages, but for the login session `keep`."""
    revoke_login_sessions(session, user.id, keep=keep)
    session.execute(
        update(WebSession)
        .where(WebSession.user_id == user.id, WebSession.revoked_at.is_(None))
        .values(revoked_at=utc_now())
    )


def audit(
    session: Session, principal: Principal, user: User, action: str, *, details: dict[str, object] | None = None
) -> None:
    """The audit row of a change of a user."""
    record(
        session, actor=principal.actor, action=action, target=f"user:{user.uid}", customer_id=user.customer_id,
        address=principal.address, details=details,
    )  # fmt: skip


def _customer_name(session: Session, user: User) -> CustomerName | None:
    customer = session.get(Customer, user.customer_id) if user.customer_id is not None else None
    return CustomerName(id=customer.uid, name=customer.name) if customer else None


def _view(user: User, customer: CustomerName | None) -> UserView:
    return UserView(
        id=user.uid,
        username=user.username,
        email=user.email,
        display_name=user.display_name,
        role=Role(user.role),
        customer=customer,
        must_change_password=user.must_change_password,
        locked_until=user.locked_until,
        disabled_at=user.disabled_at,
        created_at=user.created_at,
    )
