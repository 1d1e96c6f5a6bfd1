"""Advance reservations over HTTP. They cost nothing themselves: what runs in one is billed as anything that runs."""

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.deps import DatabaseDep, PrincipalDep
from api.idempotency.once import OnceDep
from api.pagination import CursorQuery, LimitQuery, Page, page_rows
from api.problems import problems
from api.reservations import repository, service
from api.reservations.schemas import ReservationCreate, ReservationOut, ReservationsCreated
from api.reservations.tables import Reservation
from scheduler.states import ReservationState

router = APIRouter(prefix="/customer/reservations", tags=["reservations"])


@router.get("", responses=problems(400))
def list_reservations(
    database: DatabaseDep,
    principal: PrincipalDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    state: Annotated[ReservationState | None, Query(description="Only those in this state")] = None,
    over: Annotated[bool | None, Query(description="Only those whose end has passed, or has not")] = None,
) -> Page[ReservationOut]:
    """All of your customer's, newest first."""
    query = repository.visible_to(principal)
    if state is not None:
        query = query.where(Reservation.state == state)
    if over is not None:
        now = utc_now()
        query = query.where(Reservation.ends_at <= now if over else Reservation.ends_at > now)

    def work(session: Session) -> Page[ReservationOut]:
        rows, following = page_rows(session, query, key=Reservation.id, cursor=cursor, limit=limit)
        return Page(items=repository.views(session, [row.Reservation for row in rows]), next_cursor=following)

    return database.transact(work)


@router.post("", status_code=201, responses=problems(404, 409))
def create_reservation(
    body: ReservationCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> ReservationsCreated:
    """Set GPUs aside for a time, once or again and again: all of the times, or none.

    A request that names the reservation starts in it, and nothing else does. Nothing is paid for the reservation
    itself: what runs in it costs what it costs elsewhere. 409 `reservation_taken` tells the next time that would do.
    """
    work = partial(service.create, principal=principal, wanted=body, now=utc_now())
    try:
        return database.transact(lambda session: once.run(session, ReservationsCreated, partial(work, session)))
    except service.Taken as taken:
        raise taken.answer() from taken


@router.get("/{reservation_id}", responses=problems(404))
def get_reservation(reservation_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> ReservationOut:
    with database.session() as session:
        return repository.views(session, [repository.find(session, principal, reservation_id)])[0]


@router.delete("/{reservation_id}", status_code=204, responses=problems(404))
def cancel_reservation(
    reservation_id: UUID,
    database: DatabaseDep,
    principal: PrincipalDep,
    series: Annotated[bool, Query(description="With all of its series that are not over")] = False,
) -> None:
    """Give back what lies ahead of it. What runs in it goes on. Cancelling again changes nothing."""
    database.transact(partial(service.cancel, principal=principal, uid=reservation_id, series=series, now=utc_now()))
