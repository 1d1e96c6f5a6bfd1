"""Reading reservations, a tenant's only through that tenant's query, and what the calendar leaves free."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from api.allocations.feasibility import Offer
from api.allocations.tables import Allocation, AllocationDevice
from api.errors import NotFound, Unprocessable
from api.identity.tables import User
from api.machines.tables import Gpu, Host
from api.principal import Principal
from api.reservations.calendar import FOREVER, Booking, Room, Slot, Span
from api.reservations.schemas import ReservationOut, ReservedDevice
from api.reservations.tables import Reservation, ReservationDevice
from api.tenants.tables import Workspace
from scheduler.states import AdminState, AllocationState, ReservationState

_STAYING = (AllocationState.PLACING, AllocationState.ACTIVE)


def visible_to(principal: Principal) -> Select[Any]:
    """All of a customer's are seen by all of its people, who may all start in them."""
    return select(Reservation).where(Reservation.customer_id == principal.tenant_id)


def find(session: Session, principal: Principal, uid: UUID, *, lock: bool = False) -> Reservation:
    """Raises NotFound."""
    query = visible_to(principal).where(Reservation.uid == uid)
    reservation = session.scalar(query.with_for_update() if lock else query)
    if not isinstance(reservation, Reservation):
        raise NotFound("There is no such reservation.")
    return reservation


def find_named(session: Session, *, customer_id: int, uid: UUID, now: datetime) -> Reservation:
    """The reservation that a request names: by its id, or the next of a series, the present one included.

    Raises:
        Unprocessable: `unknown_reservation`, or `reservation_over`.
    """
    query = select(Reservation).where(
        Reservation.customer_id == customer_id, or_(Reservation.uid == uid, Reservation.series_uid == uid)
    )
    found = session.scalars(query.order_by(Reservation.starts_at)).all()
    if not found:
        raise Unprocessable(f"Your customer has no reservation {uid}.", code="unknown_reservation")
    for reservation in found:
        if reservation.state == ReservationState.BOOKED and reservation.ends_at > now:
            return reservation
    raise Unprocessable("That reservation is over, or was cancelled.", code="reservation_over")


def ahead(session: Session, principal: Principal, series: UUID, *, now: datetime) -> list[Reservation]:
    """Those of a series that are not over, locked."""
    query = visible_to(principal).where(Reservation.series_uid == series, Reservation.ends_at > now)
    return list(session.scalars(query.order_by(Reservation.id).with_for_update()))


def gpu_ids(session: Session, reservation: Reservation) -> Sequence[int]:
    query = select(ReservationDevice.gpu_id).where(ReservationDevice.reservation_id == reservation.id)
    return session.scalars(query.order_by(ReservationDevice.gpu_id)).all()


def slots(session: Session, offers: Sequence[Offer], models: Collection[str]) -> list[Slot]:
    """The devices of these kinds that may be set aside, of hosts that take new work."""
    kinds = {(offer.host_id, offer.model, offer.gpu_memory_bytes) for offer in offers if offer.model in models}
    query = (
        select(Gpu)
        .join(Host, Host.id == Gpu.host_id)
        .where(Gpu.present, Gpu.healthy, Host.admin_state == AdminState.AVAILABLE)
        .where(Gpu.host_id.in_({host_id for host_id, _, _ in kinds}))
        .order_by(Gpu.id)
    )
    return [
        Slot(gpu.id, gpu.host_id, gpu.model)
        for gpu in session.scalars(query)
        if (gpu.host_id, gpu.model, gpu.memory_bytes) in kinds
    ]


def rooms(session: Session, host_ids: Collection[int]) -> dict[int, Room]:
    query = select(Host.id, Host.cpu_milli, Host.memory_bytes).where(Host.id.in_(host_ids))
    return {host_id: Room(cpu_milli, memory_bytes) for host_id, cpu_milli, memory_bytes in session.execute(query)}


def bookings(session: Session, *, now: datetime) -> list[Booking]:
    """Everybody's reservations that are not over."""
    query = (
        select(Reservation, Gpu.host_id, func.array_agg(Gpu.id))
        .join(ReservationDevice, ReservationDevice.reservation_id == Reservation.id)
        .join(Gpu, Gpu.id == ReservationDevice.gpu_id)
        .where(Reservation.state == ReservationState.BOOKED, Reservation.ends_at > now)
        .group_by(Reservation.id, Gpu.host_id)
        .order_by(Reservation.id, Gpu.host_id)
    )
    return [
        Booking(Span(row.starts_at, row.ends_at), host_id, frozenset(ids), row.cpu_milli, row.memory_bytes)
        for row, host_id, ids in session.execute(query)
    ]


def held(session: Session, *, now: datetime) -> list[Booking]:
    """What runs and will not give way, up to its certain end: a reservation must not count on its devices before, nor
    on the CPU and memory of what has no devices.
    """
    query = (
        select(Allocation, Reservation.ends_at, Gpu.host_id, func.array_agg(Gpu.id))
        .join(AllocationDevice, AllocationDevice.allocation_id == Allocation.id)
        .join(Gpu, Gpu.id == AllocationDevice.gpu_id)
        .outerjoin(Reservation, Reservation.id == Allocation.reservation_id)
        .where(
            func.upper_inf(AllocationDevice.period),
            Allocation.preemptible.is_(False),
            Allocation.state.in_(_STAYING),
        )
        .group_by(Allocation.id, Reservation.ends_at, Gpu.host_id)
    )
    return [
        Booking(Span(now, end), host_id, frozenset(ids), row.cpu_milli, row.memory_bytes)
        for row, reserved_until, host_id, ids in session.execute(query)
        if (end := _end_of(row, reserved_until, now)) > now
    ] + _held_without_devices(session, now=now)


def _held_without_devices(session: Session, *, now: datetime) -> list[Booking]:
    query = select(Allocation).where(
        Allocation.holds(), Allocation.gpus == 0, Allocation.preemptible.is_(False), Allocation.state.in_(_STAYING)
    )
    return [
        Booking(Span(now, end), host_id, frozenset(), row.cpu_milli, row.memory_bytes)
        for row in session.scalars(query.order_by(Allocation.id))
        if (end := _end_of(row, None, now)) > now
        for host_id in row.host_ids
    ]


def booked_by(session: Session, customer_id: int, *, now: datetime) -> list[tuple[Span, int]]:
    """A customer's own that are not over, each with its GPUs."""
    query = select(Reservation).where(
        Reservation.customer_id == customer_id,
        Reservation.state == ReservationState.BOOKED,
        Reservation.ends_at > now,
    )
    return [(Span(row.starts_at, row.ends_at), row.nodes * row.gpus) for row in session.scalars(query)]


def views(session: Session, reservations: Sequence[Reservation]) -> list[ReservationOut]:
    """In their order: a fixed number of queries for any number."""
    ids = [reservation.id for reservation in reservations]
    devices: dict[int, list[ReservedDevice]] = defaultdict(list)
    query = (
        select(ReservationDevice.reservation_id, Gpu, Host.name)
        .join(Gpu, Gpu.id == ReservationDevice.gpu_id)
        .join(Host, Host.id == Gpu.host_id)
        .where(ReservationDevice.reservation_id.in_(ids))
        .order_by(ReservationDevice.reservation_id, Host.id, Gpu.index)
    )
    for reservation_id, gpu, host in session.execute(query):
        device = ReservedDevice(host=host, uuid=gpu.uuid, model=gpu.model, simulated=gpu.simulated)
        devices[reservation_id].append(device)
    people = session.execute(select(User.id, User.username).where(User.id.in_([row.user_id for row in reservations])))
    places = session.execute(
        select(Workspace.id, Workspace.name).where(Workspace.id.in_([row.workspace_id for row in reservations]))
    )
    owners, workspaces = {key: name for key, name in people}, {key: name for key, name in places}
    return [_view(row, owners[row.user_id], workspaces[row.workspace_id], devices[row.id]) for row in reservations]


def _end_of(allocation: Allocation, reserved_until: datetime | None, now: datetime) -> datetime:
    """When it will have ended for certain: it is ended then, if not before."""
    ends = [reserved_until] if reserved_until is not None else []
    if allocation.limit_s is not None:
        ends.append((allocation.placed_at or now) + timedelta(seconds=allocation.limit_s))
    return min(ends, default=FOREVER)


def _view(reservation: Reservation, owner: str, workspace: str, devices: list[ReservedDevice]) -> ReservationOut:
    return ReservationOut(
        id=reservation.uid,
        series=reservation.series_uid,
        state=ReservationState(reservation.state),
        starts_at=reservation.starts_at,
        ends_at=reservation.ends_at,
        owner=owner,
        workspace=workspace,
        nodes=reservation.nodes,
        gpus=reservation.gpus,
        cpu_milli=reservation.cpu_milli,
        memory_bytes=reservation.memory_bytes,
        devices=devices,
        created_at=reservation.created_at,
        cancelled_at=reservation.cancelled_at,
    )
