"""Environments as the Hub drives them: by user name and server name, on behalf of the Hub's user."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.request import MAX_GPUS
from api.allocations.tables import Allocation
from api.billing.journal import balance
from api.billing.run_time_service import run_time
from api.billing.schemas import RunTimeOut
from api.capacity.tables import CapacityGroup
from api.clock import utc_now
from api.environments import observation, service
from api.environments.containers import MAX_ERROR
from api.environments.repository import find_named
from api.environments.schemas import EnvironmentCreate
from api.environments.tables import Environment
from api.errors import Forbidden, NotFound, Unprocessable
from api.identity.tables import User
from api.images.tables import Image
from api.machines.offers import ModelOffer, model_offers
from api.principal import Caller
from api.quotas.limits import Path, limits_on
from api.reservations.tables import Reservation
from api.settings import Settings
from api.tenants.tables import Customer, Workspace
from scheduler.states import AllocationState, EndReason, EnvironmentDesired, ReservationState

ACTOR = "hub"
MAX_OFFERED = 20  # capacity groups, and reservations, in the form


class StartOptions(BaseModel):
    """The form of the Hub's spawn page: fields of `EnvironmentCreate`. What is wrong in them is refused as there."""

    model_config = ConfigDict(extra="allow")

    image: str
    gpus: int = 1


class UserStanding(BaseModel):
    """Sessions of the Hub from before `password_changed_at` are to end; null: the password is still the first one."""

    password_changed_at: datetime | None


class ImageOption(BaseModel):
    name: str
    description: str


class ReservationOption(BaseModel):
    id: UUID
    starts_at: datetime
    ends_at: datetime
    gpus: int


class HubOptions(BaseModel):
    images: list[ImageOption]
    models: list[ModelOffer]
    balance_micro: int
    max_gpus: int
    max_priority: int
    capacity_groups: list[str]
    workspaces: list[str]  # beside the default one
    reservations: list[ReservationOption]


def standing(session: Session, username: str) -> UserStanding:
    """What the Hub's sessions of a user, administrators too, depend on.

    Raises:
        NotFound, Forbidden: `no_such_user`, `account_disabled`.
    """
    user, _ = _user(session, username)
    return UserStanding(password_changed_at=user.password_changed_at)


def options(session: Session, username: str) -> HubOptions:
    """What a user may start.

    Raises:
        NotFound, Forbidden: nobody of that name rents here.
    """
    user, customer = _tenant(session, username)
    images = session.scalars(select(Image).where(Image.enabled).order_by(Image.name))
    limited = limits_on(session, Path(customer.id, workspace_id=0, user_id=user.id))
    limit = min((limits.gpus for _, limits in limited if limits.gpus is not None), default=None)
    return HubOptions(
        images=[ImageOption(name=image.name, description=image.description) for image in images],
        models=model_offers(session, customer=customer),
        balance_micro=balance(session, customer.id).available_micro,
        max_gpus=MAX_GPUS if limit is None else min(limit, MAX_GPUS),
        max_priority=customer.priority_ceiling,
        capacity_groups=_capacity_groups(session, customer.id),
        workspaces=_workspaces(session, customer.id),
        reservations=_reservations(session, customer.id),
    )


def money(session: Session, username: str, *, grace_s: int) -> RunTimeOut | None:
    """How long the user's customer can pay for what runs; None for an administrator.

    Raises:
        NotFound, Forbidden: `no_such_user`, `account_disabled`.
    """
    _, customer = _user(session, username)
    return None if customer is None else run_time(session, customer.id, grace_s=grace_s)


def start(
    session: Session, *, settings: Settings, username: str, name: str, wanted: StartOptions | None
) -> Environment:
    """Create the environment, or start it again: then with the size it has, whatever `wanted` says.

    Raises:
        NotFound: it does not exist, and nothing says what it should be (`no_options`).
        api.errors.ApiError: as `api.environments.service` refuses.
    """
    user, customer = _tenant(session, username)
    caller = Caller(user.id, customer.id, ACTOR)
    environment = find_named(session, username=username, name=name)
    if environment is not None:
        return service.start(session, settings, caller, environment.uid)
    if wanted is None:
        raise NotFound("There is no such environment; say what it should be.", code="no_options")
    return service.create(session, settings, caller, _checked(name, wanted))


def stop(session: Session, *, username: str, name: str, container_name: str | None = None) -> Environment:
    """Desired: stopped. The Hub also says so of what has stopped long ago: of another container it changes nothing.

    Nor of one that gives way: the Hub says so of its container because the platform told it, and not its user.
    """
    environment = service.lock(session, _find(session, username, name).uid)
    allocation = session.get(Allocation, environment.allocation_id)
    current = container_name is None or (allocation is not None and allocation.container_name == container_name)
    gives_way = (
        container_name is not None
        and allocation is not None
        and allocation.state == AllocationState.RELEASING
        and allocation.end_reason == EndReason.PREEMPTED
    )
    if environment.desired != EnvironmentDesired.RUNNING or not current or gives_way:
        return environment
    caller = Caller(environment.user_id, environment.customer_id, ACTOR)
    return service.stop(session, caller, environment.uid)


def ready(session: Session, *, username: str, name: str) -> Environment:
    """The server answers. Of one that is not to run it changes nothing."""
    environment = service.lock(session, _find(session, username, name).uid)
    allocation = session.get(Allocation, environment.allocation_id)
    if (
        allocation is not None
        and allocation.state == AllocationState.ACTIVE
        and environment.desired == EnvironmentDesired.RUNNING
    ):
        observation.answered(session, environment, allocation, actor=ACTOR)
    return environment


def failed(session: Session, *, username: str, name: str, container_name: str, error: str) -> Environment:
    """The Hub gave the container up. If it was starting the reconciler tries again; if it ran it has failed.

    Of another container than the current one, and of one that is not to run, it changes nothing.
    """
    environment = service.lock(session, _find(session, username, name).uid)
    allocation = session.get(Allocation, environment.allocation_id)
    if (
        allocation is not None
        and allocation.state == AllocationState.ACTIVE
        and allocation.container_name == container_name
        and environment.desired == EnvironmentDesired.RUNNING
    ):
        observation.given_up(session, environment, allocation, error=error[:MAX_ERROR], actor=ACTOR)
    return environment


def _find(session: Session, username: str, name: str) -> Environment:
    environment = find_named(session, username=username, name=name)
    if environment is None:
        raise NotFound("There is no such environment.", code="no_such_environment")
    return environment


def _tenant(session: Session, username: str) -> tuple[User, Customer]:
    user, customer = _user(session, username)
    if customer is None:
        raise Forbidden("Administrators rent no GPUs; sign in as a customer's user.", code="no_customer")
    return user, customer


def _user(session: Session, username: str) -> tuple[User, Customer | None]:
    user = session.scalar(select(User).where(User.username == username))
    if user is None:
        raise NotFound("There is no such user.", code="no_such_user")
    customer = session.get_one(Customer, user.customer_id) if user.customer_id is not None else None
    if user.disabled_at is not None or (customer is not None and customer.disabled_at is not None):
        raise Forbidden("The account is disabled.", code="account_disabled")
    return user, customer


def _checked(name: str, wanted: StartOptions) -> EnvironmentCreate:
    given: dict[str, Any] = wanted.model_dump(exclude_none=True)  # Any: checked by the model below
    fields = {key: value for key, value in given.items() if key in EnvironmentCreate.model_fields and key != "name"}
    try:
        return EnvironmentCreate(name=name, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        sentence = f"{where}: {first['msg']}" if where else first["msg"]
        raise Unprocessable(sentence, code="validation") from error


def _capacity_groups(session: Session, customer_id: int) -> list[str]:
    query = select(CapacityGroup.name).where(CapacityGroup.customer_id == customer_id).order_by(CapacityGroup.name)
    return list(session.scalars(query.limit(MAX_OFFERED)))


def _workspaces(session: Session, customer_id: int) -> list[str]:
    query = select(Workspace.name).where(Workspace.customer_id == customer_id, Workspace.is_default.is_(False))
    return list(session.scalars(query.order_by(Workspace.name).limit(MAX_OFFERED)))


def _reservations(session: Session, customer_id: int) -> list[ReservationOption]:
    """Those that are not over, the next first."""
    query = select(Reservation).where(
        Reservation.customer_id == customer_id,
        Reservation.state == ReservationState.BOOKED,
        Reservation.ends_at > utc_now(),
    )
    return [
        ReservationOption(id=row.uid, starts_at=row.starts_at, ends_at=row.ends_at, gpus=row.gpus)
        for row in session.scalars(query.order_by(Reservation.starts_at).limit(MAX_OFFERED))
    ]
