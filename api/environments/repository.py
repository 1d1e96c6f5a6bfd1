"""Reading environments: a tenant's only through a query scoped by the principal, with all that their views show."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation, AllocationDevice
from api.billing.shown_price import is_current_hold, price_columns
from api.billing.tables import Hold
from api.environments.tables import Environment
from api.errors import NotFound
from api.identity.tables import User
from api.images.tables import Image
from api.machines.tables import Gpu, Host
from api.principal import Principal, Role
from api.tenants.tables import Workspace
from scheduler.prices import PriceTerms
from scheduler.states import AllocationState, EnvironmentState

MAX_LISTED = 1000  # environments of one user on one page of the Hub


@dataclass(frozen=True, slots=True)
class Device:
    uuid: str
    model: str
    milli: int
    simulated: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """An environment with what its views show of other tables. `allocation` is the current or the last one."""

    environment: Environment
    username: str
    workspace: str
    image: Image
    allocation: Allocation | None
    host: str | None
    price_micro_per_gpu_hour: int | None
    price_terms: PriceTerms | None
    price_kept_until: datetime | None
    devices: Sequence[Device]


def visible_to(principal: Principal) -> Select[Any]:
    """Members see their own environments, owners their customer's; nobody sees deleted ones."""
    query = select(Environment).where(
        Environment.customer_id == principal.tenant_id, Environment.observed != EnvironmentState.DELETED
    )
    if principal.role is not Role.OWNER:
        query = query.where(Environment.user_id == principal.user_id)
    return query


def find(session: Session, principal: Principal, uid: UUID) -> Environment:
    """One of the principal's environments, unlocked.

    Raises:
        NotFound: there is none with that id that the principal may see.
    """
    environment = session.scalar(visible_to(principal).where(Environment.uid == uid))
    if not isinstance(environment, Environment):
        raise NotFound("There is no such environment.")
    return environment


def find_named(session: Session, *, username: str, name: str) -> Environment | None:
    """The environment behind one of the Hub's named servers."""
    query = (
        select(Environment)
        .join(User, User.id == Environment.user_id)
        .where(User.username == username, Environment.name == name, Environment.observed != EnvironmentState.DELETED)
    )
    return session.scalar(query)


def named_by(session: Session, username: str) -> Sequence[Environment]:
    """A user's environments by name, as the Hub lists them."""
    query = (
        select(Environment)
        .join(User, User.id == Environment.user_id)
        .where(User.username == username, Environment.observed != EnvironmentState.DELETED)
        .order_by(Environment.name)
        .limit(MAX_LISTED)
    )
    return session.scalars(query).all()


def load(session: Session, environments: Sequence[Environment]) -> list[Loaded]:
    """The environments, in their order, with the rest of their views: a fixed number of queries for any number."""
    query = (
        select(
            Environment.id,
            User.username,
            Workspace.name.label("workspace"),
            Image,
            Allocation,
            Host.name.label("host"),
            *price_columns(),
        )
        .join(User, User.id == Environment.user_id)
        .join(Workspace, Workspace.id == Environment.workspace_id)
        .join(Image, Image.id == Environment.image_id)
        .outerjoin(Allocation, Allocation.id == Environment.allocation_id)
        .outerjoin(Host, Host.id == Allocation.host_id)
        .outerjoin(Hold, is_current_hold())
        .where(Environment.id.in_([environment.id for environment in environments]))
    )
    rows = {row.id: row for row in session.execute(query)}
    devices = held_devices(session, [row.Allocation.id for row in rows.values() if row.Allocation is not None])
    return [_loaded(environment, rows[environment.id], devices) for environment in environments]


def _loaded(environment: Environment, row: Any, devices: dict[int, list[Device]]) -> Loaded:  # Any: a Row
    allocation: Allocation | None = row.Allocation
    return Loaded(
        environment=environment,
        username=row.username,
        workspace=row.workspace,
        image=row.Image,
        allocation=allocation,
        host=row.host,
        price_micro_per_gpu_hour=row.price_micro_per_gpu_hour,
        price_terms=None if row.price_terms is None else PriceTerms(row.price_terms),
        price_kept_until=row.price_kept_until,
        devices=devices.get(allocation.id, ()) if allocation is not None else (),
    )


def held_devices(session: Session, allocation_ids: Iterable[int]) -> dict[int, list[Device]]:
    """The devices that allocations hold now, by allocation: those of their current generation, until released."""
    query = (
        select(AllocationDevice, Gpu)
        .join(Gpu, Gpu.id == AllocationDevice.gpu_id)
        .join(Allocation, Allocation.id == AllocationDevice.allocation_id)
        .where(
            AllocationDevice.allocation_id.in_(list(allocation_ids)),
            AllocationDevice.generation == Allocation.generation,
            Allocation.state.in_((AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)),
        )
        .order_by(AllocationDevice.allocation_id, Gpu.index)
    )
    milli: dict[tuple[int, int], int] = defaultdict(int)  # a share may take several range rows
    gpus: dict[int, Gpu] = {}
    for row, gpu in session.execute(query):
        milli[row.allocation_id, gpu.id] += row.milli_to - row.milli_from
        gpus[gpu.id] = gpu
    devices: dict[int, list[Device]] = defaultdict(list)
    for (allocation_id, gpu_id), share in milli.items():
        gpu = gpus[gpu_id]
        devices[allocation_id].append(Device(gpu.uuid, gpu.model, share, gpu.simulated))
    return devices
