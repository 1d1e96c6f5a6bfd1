"""Reading allocations, a tenant's only through a query of that tenant's, with what belongs to them."""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, any_, bindparam, case, cast, func, literal_column, select, union
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, aliased

from api.allocations.schemas import AllocationDetail, AllocationEventOut, AllocationSummary
from api.allocations.tables import Allocation, AllocationDevice, AllocationEvent
from api.billing.shown_price import is_current_hold, price_columns, shown_version
from api.billing.tables import Hold, PriceVersion
from api.capacity.tables import CapacityGroup
from api.db import Moment
from api.errors import NotFound
from api.identity.tables import User
from api.machines.tables import Gpu, Host
from api.pagination import JsonList, as_answered
from api.principal import Principal, Role
from api.reservations.tables import Reservation
from api.tenants.tables import Customer, Workspace
from scheduler.states import AllocationState

MAX_EVENTS = 200


def _devices() -> ColumnElement[Any]:
    """Those of the current generation, as a JSON array; a queued one has none, whatever it had before.

    A share of a device may take several range rows.
    """
    held = (
        select(Gpu, func.sum(AllocationDevice.milli_to - AllocationDevice.milli_from).label("milli"))
        .select_from(AllocationDevice)
        .join(Gpu, Gpu.id == AllocationDevice.gpu_id)
        .where(
            AllocationDevice.allocation_id == Allocation.id,
            AllocationDevice.generation == Allocation.generation,
            Allocation.state != AllocationState.QUEUED,
        )
        .group_by(Gpu.id)
        .correlate(Allocation)
        .lateral()
    )
    device = func.json_build_object(
        "uuid", held.c.uuid, "model", held.c.model, "milli", held.c.milli, "simulated", held.c.simulated,
    )  # fmt: skip
    in_order = aggregate_order_by(device, held.c.host_id, held.c.index)
    return select(func.coalesce(func.json_agg(in_order), func.json_build_array())).select_from(held).scalar_subquery()


def _wait() -> ColumnElement[Any]:
    reason = Allocation.wait_reason
    told = func.json_build_object(
        "code", func.coalesce(reason["code"].astext, "queued"),
        "detail", func.coalesce(reason["detail"].astext, "It waits for the scheduler to look at it."),
        "position", reason["position"], "figures", reason["figures"],
        "eta", as_answered(func.timezone("UTC", cast(reason["eta"].astext, Moment), type_=Moment)),
        "eta_basis", func.coalesce(reason["eta_basis"].astext, "unknown"),
    )  # fmt: skip
    return case((Allocation.state == AllocationState.QUEUED, told))


def _on_host() -> ColumnElement[bool]:
    """On the host with the uid `host`, as the first of its hosts or another one: found by indexes, gangs by the devices
    that they have or had there, or among the few that have none."""
    allocation, host = aliased(Allocation), aliased(Host)
    first = select(allocation.id).join(host, host.id == allocation.host_id).where(host.uid == bindparam("host"))
    gangs = (
        select(allocation.id)
        .join(AllocationDevice, AllocationDevice.allocation_id == allocation.id)
        .join(Gpu, Gpu.id == AllocationDevice.gpu_id)
        .join(host, host.id == Gpu.host_id)
        .where(host.uid == bindparam("host"), allocation.nodes > 1, host.id == any_(allocation.host_ids))
    )
    without_devices = (
        select(allocation.id)
        .join(host, host.id == any_(allocation.host_ids))
        .where(host.uid == bindparam("host"), allocation.nodes > 1, allocation.gpus == 0)
    )
    return Allocation.id.in_(union(first, gangs, without_devices))


ALL: Select[*tuple[Any, ...]] = (
    select(
        Allocation.uid.label("id"),
        Allocation.kind,
        Allocation.state,
        Allocation.end_reason,
        Allocation.end_detail,
        Allocation.generation,
        Customer.uid.label("customer_id"),
        Customer.name.label("customer"),
        Workspace.name.label("workspace"),
        User.username.label("user"),
        Allocation.nodes,
        Allocation.gpus,
        Allocation.milli.label("gpu_milli"),
        func.nullif(func.array_to_string(Allocation.gpu_models, " or "), "").label("gpu_model"),
        Allocation.gpu_models,
        Allocation.cpu_milli,
        Allocation.memory_bytes,
        Allocation.disk_bytes,
        Allocation.priority,
        Allocation.preemptible,
        Allocation.min_runtime_s,
        Allocation.limit_s.label("time_limit_s"),
        CapacityGroup.name.label("capacity_group"),
        Reservation.uid.label("reservation"),
        Host.name.label("host"),
        _devices().label("devices"),
        Allocation.run_until,
        *price_columns(),
        PriceVersion.currency,
        _wait().label("wait"),
        Allocation.queued_at,
        Allocation.placed_at,
        Allocation.active_at,
        Allocation.checkpoint_at,
        Allocation.releasing_at,
        Allocation.released_at,
    )
    .select_from(Allocation)
    .join(Customer, Customer.id == Allocation.customer_id)
    .join(Workspace, Workspace.id == Allocation.workspace_id)
    .join(User, User.id == Allocation.user_id)
    .outerjoin(CapacityGroup, CapacityGroup.id == Allocation.capacity_group_id)
    .outerjoin(Reservation, Reservation.id == Allocation.reservation_id)
    .outerjoin(Host, Host.id == Allocation.host_id)
    .outerjoin(Hold, is_current_hold())
    .outerjoin(PriceVersion, PriceVersion.id == Hold.price_version_id)
)
"""Every tenant's: for administrators. Its columns are the fields of `AllocationSummary`."""

LIST = JsonList(
    AllocationSummary,
    ALL,
    key=Allocation.id,
    # All that an item shows: its own row, which every change of its devices writes too (`devices.occupy`,
    # `machines.registration`), the names and prices that may change, and else what never does.
    version=(
        literal_column("allocations.xmin"),
        Customer.name,
        Workspace.name,
        User.username,
        Host.name,
        *shown_version(),
    ),
    filters={
        "tenant": Allocation.customer_id == bindparam("tenant"),
        "user": Allocation.user_id == bindparam("user"),
        "state": Allocation.state == bindparam("state"),
        "customer": Customer.uid == bindparam("customer"),
        "host": _on_host(),
    },
)


def scope_of(principal: Principal) -> dict[str, int]:
    """The filters of `LIST` for a customer's people: members see their own, owners all of their customer's."""
    scope = {"tenant": principal.tenant_id}
    return scope if principal.role is Role.OWNER else scope | {"user": principal.user_id}


def visible_to(principal: Principal) -> Select[*tuple[Any, ...]]:
    """The same as a query."""
    scope = scope_of(principal)
    return ALL.where(*(LIST.filters[name] for name in scope)).params(scope)


def find(session: Session, query: Select[*tuple[Any, ...]], uid: UUID) -> AllocationDetail:
    """One allocation of those that `query` selects, with its events.

    Raises:
        NotFound: it selects none with that id.
    """
    row = session.execute(query.where(Allocation.uid == uid)).one_or_none()
    if row is None:
        raise NotFound("There is no such allocation.")
    events = session.scalars(
        select(AllocationEvent)
        .join(Allocation, Allocation.id == AllocationEvent.allocation_id)
        .where(Allocation.uid == uid)
        .order_by(AllocationEvent.id.desc())
        .limit(MAX_EVENTS)
    ).all()
    shown = [_event(event) for event in reversed(events)]
    return AllocationDetail.model_validate({**row._mapping, "events": shown})


def _event(event: AllocationEvent) -> AllocationEventOut:
    return AllocationEventOut(
        at=event.at,
        actor=event.actor,
        from_state=AllocationState(event.from_state) if event.from_state else None,
        to_state=AllocationState(event.to_state),
        reason=event.reason,
    )
