"""Making and cancelling advance reservations: devices are chosen at once, and nothing else may overlap them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from psycopg.errors import ExclusionViolation
from sqlalchemy import update
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.allocations import feasibility
from api.allocations.devices import lock_placement
from api.allocations.feasibility import Offer
from api.allocations.request import SchedulingOptions, demand_of
from api.allocations.sizes import default_size
from api.allocations.transitions import notify
from api.audit.service import record
from api.environments.repository import find as find_environment
from api.errors import Conflict, Forbidden
from api.ids import new_uid
from api.principal import Principal, Role
from api.quotas.limits import Path
from api.quotas.service import Asked, check_ever
from api.reservations import repository
from api.reservations.calendar import Booking, Room, Slot, Span, Wish, choose, next_start, peak
from api.reservations.occurrences import occurrences
from api.reservations.schemas import ReservationCreate, ReservationsCreated
from api.reservations.tables import Reservation, ReservationDevice
from api.tenants import workspaces
from api.tenants.tables import Customer
from scheduler.demand import Demand
from scheduler.states import RESERVATION, ReservationState, check_transition

MAX_BOOKED = 200  # of one customer that are not over


@dataclass(frozen=True, slots=True)
class _Calendar:
    wish: Wish
    slots: Sequence[Slot]
    rooms: dict[int, Room]
    bookings: list[Booking]


class Taken(Exception):
    """The calendar has no room at that time. Raised to leave the transaction: looking for another time needs none."""

    def __init__(self, calendar: _Calendar, span: Span) -> None:
        self._calendar = calendar
        self._span = span

    def answer(self) -> Conflict:
        """`reservation_taken`, with the next time that would do."""
        calendar, span = self._calendar, self._span
        start = next_start(calendar.wish, span, slots=calendar.slots, rooms=calendar.rooms, bookings=calendar.bookings)
        wish = calendar.wish
        where = "one host" if wish.nodes == 1 else f"each of {wish.nodes} hosts"
        sentence = f"There are not {wish.gpus} such GPUs free on {where} from {_moment(span.start)}"
        if start is None:
            return Conflict(f"{sentence}, and no other time was found.", code="reservation_taken")
        return Conflict(
            f"{sentence}; the next time for as long is from {_moment(start)}.",
            code="reservation_taken",
            errors=[
                {"loc": ["body", "starts_at"], "message": "taken", "next_start": start.astimezone(UTC).isoformat()}
            ],
        )


def create(session: Session, principal: Principal, wanted: ReservationCreate, *, now: datetime) -> ReservationsCreated:
    """Book all of the times asked for, or none.

    Raises:
        Taken: one of them can't be had.
        Unprocessable: `bad_period`, `quota_exceeded`, `unknown_workspace`, or what no host could ever bear.
        Conflict: `too_many_reservations`, or `reservation_taken`.
    """
    lock_placement(session)
    customer = session.get_one(Customer, principal.tenant_id, with_for_update=True)
    spans = occurrences(wanted, now=now)
    bound_host_id = None
    if wanted.environment is not None:
        bound_host_id = find_environment(session, principal, wanted.environment).host_id
    workspace_id = workspaces.find_id(session, customer_id=customer.id, name=wanted.workspace)
    offers = feasibility.load_offers(session)
    demand = _demand(offers, wanted, bound_host_id)
    # What runs in a reservation is billed as anything that runs.
    models = feasibility.priced(session, feasibility.check(offers, demand), customer_id=customer.id)
    path = Path(customer.id, workspace_id, principal.user_id)
    _check_limits(session, path, demand, models, spans, now=now)
    calendar = _calendar(session, demand, feasibility.check_kind(offers, demand), models, now=now)
    series = new_uid() if wanted.every is not None else None
    rows = []
    for span in spans:
        chosen = _choose(calendar, span)
        rows.append(_add(session, principal, calendar.wish, span, chosen, workspace_id=workspace_id, series=series))
    _audit(session, principal, rows, "create")
    notify(session)
    return ReservationsCreated(items=repository.views(session, rows))


def cancel(session: Session, principal: Principal, uid: UUID, *, series: bool, now: datetime) -> None:
    """Give back what lies ahead. What runs in it stays, as anything else that runs. Repeatable.

    With `series`, all of its series that are not over.

    Raises:
        NotFound
        Forbidden: it is a colleague's, and the principal does not own the customer's account.
    """
    moment = lock_placement(session)
    found = repository.find(session, principal, uid, lock=True)
    rows = [found]
    if series and found.series_uid is not None:
        rows = repository.ahead(session, principal, found.series_uid, now=now)
    cancelled = []
    for row in rows:
        if principal.role is not Role.OWNER and row.user_id != principal.user_id:
            raise Forbidden("It is a colleague's: they or your customer's owner may cancel it.")
        if row.state == ReservationState.BOOKED:
            _cancel(session, row, at=moment, now=now)
            cancelled.append(row)
    if cancelled:
        _audit(session, principal, cancelled, "cancel")
        notify(session)


def _cancel(session: Session, row: Reservation, *, at: datetime, now: datetime) -> None:
    check_transition(RESERVATION, current=ReservationState(row.state), target=ReservationState.CANCELLED)
    row.state = ReservationState.CANCELLED
    row.cancelled_at = now
    begun = min(max(row.starts_at, at), row.ends_at)
    session.execute(
        update(ReservationDevice)
        .where(ReservationDevice.reservation_id == row.id)
        .values(period=Range(row.starts_at, begun))
    )


def _demand(offers: Sequence[Offer], wanted: ReservationCreate, bound_host_id: int | None) -> Demand:
    options = SchedulingOptions(
        gpu_models=wanted.gpu_models,
        gpu_memory_bytes=wanted.gpu_memory_bytes,
        selectors=wanted.selectors,
        driver=wanted.driver,
        cuda=wanted.cuda,
    )
    kind = demand_of(options, gpus=wanted.gpus, cpu_milli=0, memory_bytes=0, bound_host_id=bound_host_id)
    size = default_size(feasibility.check_kind(offers, kind), gpus=wanted.gpus)
    return demand_of(
        options,
        gpus=wanted.gpus,
        cpu_milli=wanted.cpu_milli or size.cpu_milli,
        memory_bytes=wanted.memory_bytes or size.memory_bytes,
        nodes=wanted.nodes,
        bound_host_id=bound_host_id,
    )


def _check_limits(
    session: Session, path: Path, demand: Demand, models: Sequence[str], spans: Sequence[Span], *, now: datetime
) -> None:
    """No more than the quotas; and together with the customer's other reservations, than its GPUs, at any moment."""
    booked = repository.booked_by(session, path.customer_id, now=now)
    if len(booked) + len(spans) > MAX_BOOKED:
        raise Conflict(
            f"Your customer may have {MAX_BOOKED} reservations ahead: cancel some first.", code="too_many_reservations"
        )
    asked = demand.counted(task=False)
    check_ever(session, path, Asked(asked, models=models))
    together = replace(asked, gpus=peak([*booked, *((span, asked.gpus) for span in spans)]))
    check_ever(session, Path(path.customer_id, workspace_id=0, user_id=0), Asked(together))


def _calendar(
    session: Session, demand: Demand, offers: Sequence[Offer], models: Sequence[str], *, now: datetime
) -> _Calendar:
    slots = repository.slots(session, offers, models)
    wish = Wish(demand.nodes, demand.shape.gpus, demand.shape.cpu_milli, demand.shape.memory_bytes)
    rooms = repository.rooms(session, {slot.host_id for slot in slots})
    return _Calendar(wish, slots, rooms, [*repository.bookings(session, now=now), *repository.held(session, now=now)])


def _choose(calendar: _Calendar, span: Span) -> tuple[Slot, ...]:
    """Raises Taken. What is chosen is booked in this calendar, for those that follow."""
    wish = calendar.wish
    chosen = choose(wish, span, slots=calendar.slots, rooms=calendar.rooms, bookings=calendar.bookings)
    if chosen is None:
        raise Taken(calendar, span)
    for host_id in {slot.host_id for slot in chosen}:
        ids = frozenset(slot.gpu_id for slot in chosen if slot.host_id == host_id)
        calendar.bookings.append(Booking(span, host_id, ids, wish.cpu_milli, wish.memory_bytes))
    return chosen


def _add(
    session: Session,
    principal: Principal,
    wish: Wish,
    span: Span,
    chosen: Sequence[Slot],
    *,
    workspace_id: int,
    series: UUID | None,
) -> Reservation:
    row = Reservation(
        customer_id=principal.tenant_id,
        workspace_id=workspace_id,
        user_id=principal.user_id,
        series_uid=series,
        starts_at=span.start,
        ends_at=span.end,
        nodes=wish.nodes,
        gpus=wish.gpus,
        cpu_milli=wish.cpu_milli,
        memory_bytes=wish.memory_bytes,
    )
    session.add(row)
    session.flush()
    period = Range(span.start, span.end)
    try:
        with session.begin_nested():
            session.add_all(
                ReservationDevice(reservation_id=row.id, gpu_id=slot.gpu_id, period=period) for slot in chosen
            )
            session.flush()
    except IntegrityError as error:
        if not isinstance(error.orig, ExclusionViolation):
            raise
        raise Conflict("Somebody else was faster; try again.", code="reservation_taken") from error
    session.refresh(row)
    return row


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _audit(session: Session, principal: Principal, rows: Sequence[Reservation], action: str) -> None:
    first = rows[0]
    record(
        session,
        actor=principal.actor,
        action=f"reservation.{action}",
        target=f"reservation:{first.uid}",
        customer_id=first.customer_id,
        address=principal.address,
        details={"reservations": [str(row.uid) for row in rows], "starts_at": first.starts_at.isoformat()},
    )
