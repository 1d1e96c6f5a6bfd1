"""Customers: creating one with its owner and default workspace, renaming, disabling in order, enabling."""

from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.allocations.transitions import notify
from api.audit.service import record
from api.clock import utc_now
from api.environments.ending import Owner, stop_all
from api.errors import Conflict, NotFound
from api.identity.tables import LoginSession, User, WebSession
from api.identity.users import FirstPassword, create_user
from api.principal import Principal, Role
from api.tenants.schemas import (
    CustomerChange,
    CustomerCreate,
    CustomerCreated,
    CustomerView,
    OwnerCreated,
    Registration,
)
from api.tenants.tables import Customer, Workspace

DEFAULT_WORKSPACE = "default"
_REASON = "the customer was disabled"


def create(session: Session, principal: Principal, wanted: CustomerCreate, password: FirstPassword) -> CustomerCreated:
    """Add a customer with its owner.

    Raises:
        Conflict: `customer_exists`, `username_taken` or `email_taken`.
    """
    customer = _add(session, wanted.name, currency=wanted.currency)
    owner = create_user(
        session, username=wanted.owner.username, email=wanted.owner.email, role=Role.OWNER, customer_id=customer.id,
        password=password,
    )  # fmt: skip
    _audit(session, customer, actor=principal.actor, address=principal.address, action="customer.create")
    return _created(customer, owner, password)


def register(session: Session, wanted: Registration, password: FirstPassword, *, address: str) -> CustomerCreated:
    """Add a customer for somebody who registers in person.

    Raises:
        Conflict: as `create`.
    """
    customer = _add(session, wanted.customer_name)
    owner = create_user(
        session, username=wanted.username, email=wanted.email, role=Role.OWNER, customer_id=customer.id,
        password=password,
    )  # fmt: skip
    _audit(session, customer, actor=f"user:{owner.uid}", address=address, action="customer.register")
    return _created(customer, owner, password)


def find(session: Session, uid: UUID, *, lock: bool = False) -> Customer:
    """The customer with this id. Raises NotFound."""
    query = select(Customer).where(Customer.uid == uid)
    customer = session.scalar(query.with_for_update() if lock else query)
    if customer is None:
        raise NotFound("There is no such customer.")
    return customer


def change(session: Session, principal: Principal, uid: UUID, wanted: CustomerChange) -> CustomerView:
    """Give a customer another name, weight or priority ceiling. What is queued already keeps its priority.

    Raises:
        NotFound
        Conflict: `customer_exists`.
    """
    customer = find(session, uid, lock=True)
    changes = wanted.model_dump(exclude_none=True)
    try:
        with session.begin_nested():
            for name, value in changes.items():
                setattr(customer, name, value)
            session.flush()
    except IntegrityError as error:
        raise _exists(wanted.name or "") from error
    _audit(session, customer, actor=principal.actor, address=principal.address, action="customer.change", **changes)
    notify(session)
    return view(customer)


def disable(session: Session, principal: Principal, uid: UUID) -> CustomerView:
    """Refuse the customer's people and keys from now on, and ask for the end of all that runs. Repeatable."""
    customer = find(session, uid, lock=True)
    if customer.disabled_at is None:
        customer.disabled_at = utc_now()
        _audit(session, customer, actor=principal.actor, address=principal.address, action="customer.disable")
    _end_sessions(session, customer.id)
    stop_all(session, Owner(customer.id), actor=principal.actor, reason=_REASON)
    return view(customer)


def enable(session: Session, principal: Principal, uid: UUID) -> CustomerView:
    """Let the customer's people in again. Nothing starts by itself."""
    customer = find(session, uid, lock=True)
    if customer.disabled_at is not None:
        customer.disabled_at = None
        _audit(session, customer, actor=principal.actor, address=principal.address, action="customer.enable")
    return view(customer)


def view(customer: Customer) -> CustomerView:
    return CustomerView(
        id=customer.uid, name=customer.name, currency=customer.currency, weight=customer.weight,
        priority_ceiling=customer.priority_ceiling, disabled_at=customer.disabled_at, created_at=customer.created_at,
    )  # fmt: skip


def _add(session: Session, name: str, *, currency: str = "USD") -> Customer:
    customer = Customer(name=name, currency=currency)
    try:
        with session.begin_nested():
            session.add(customer)
            session.flush()
    except IntegrityError as error:
        raise _exists(name) from error
    session.add(Workspace(customer_id=customer.id, name=DEFAULT_WORKSPACE, is_default=True))
    session.refresh(customer)
    return customer


def _created(customer: Customer, owner: User, password: FirstPassword) -> CustomerCreated:
    return CustomerCreated(
        **view(customer).model_dump(),
        owner=OwnerCreated(id=owner.uid, username=owner.username, email=owner.email, password=password.generated),
    )


def _end_sessions(session: Session, customer_id: int) -> None:
    people = select(User.id).where(User.customer_id == customer_id)
    for table in (LoginSession, WebSession):
        session.execute(
            update(table)
            .where(table.user_id.in_(people), table.revoked_at.is_(None))
            .values(revoked_at=utc_now())
            .execution_options(synchronize_session=False)
        )


def _exists(name: str) -> Conflict:
    return Conflict(f"There is a customer named {name!r} already.", code="customer_exists")


def _audit(
    session: Session, customer: Customer, *, actor: str, address: str | None, action: str, **changes: object
) -> None:
    record(
        session, actor=actor, action=action, target=f"customer:{customer.uid}", customer_id=customer.id,
        address=address, details={"name": customer.name} | changes,
    )  # fmt: skip
