"""What a request names when it is queued (reservation, capacity group, priority), and whether that bears it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy.orm import Session

from api.allocations import feasibility
from api.allocations.feasibility import Offer
from api.allocations.request import RunOptions, SchedulingOptions, demand_of
from api.allocations.sizes import Size, default_size, size_within
from api.capacity import repository as capacity
from api.capacity.tables import CapacityGroup
from api.errors import Unprocessable
from api.reservations import repository as reservations
from api.reservations.tables import Reservation
from api.tenants.tables import Customer
from scheduler.demand import Demand
from scheduler.gpu_model import narrowed
from scheduler.packing.shape import Shape


@dataclass(frozen=True, slots=True)
class Claim:
    """`offers` are what it may run on: of its reservation, or of all hosts. It is of one transaction, in which many
    tasks may ask for the same: `checked` is what `check` has found.
    """

    customer_id: int
    run: RunOptions
    reservation: Reservation | None
    group: CapacityGroup | None
    offers: Sequence[Offer]
    checked: dict[Demand, list[str]] = field(default_factory=dict, repr=False, compare=False)


def find(session: Session, *, customer_id: int, run: RunOptions, now: datetime) -> Claim:
    """Look up what a request names.

    Raises:
        Unprocessable: `priority_too_high`, `unknown_capacity_group`, `unknown_reservation`, `reservation_over`.
    """
    ceiling = session.get_one(Customer, customer_id).priority_ceiling
    if run.priority > ceiling:
        raise Unprocessable(f"Your customer's priority is at most {ceiling}.", code="priority_too_high")
    group = reservation = None
    if run.capacity_group is not None:
        group = capacity.find_named(session, customer_id=customer_id, name=run.capacity_group)
    if run.reservation is not None:
        reservation = reservations.find_named(session, customer_id=customer_id, uid=run.reservation, now=now)
    ids = None if reservation is None else reservations.gpu_ids(session, reservation)
    return Claim(customer_id, run, reservation, group, feasibility.load_offers(session, gpu_ids=ids))


def size_of(claim: Claim, options: SchedulingOptions, *, gpus: int) -> Size:
    """What a request gets that names no size.

    Raises:
        Unprocessable: nothing is of the kind that it asks for, or `capacity_group_model`.
    """
    if claim.reservation is not None and gpus:
        held = claim.reservation
        return size_within(Shape(held.cpu_milli, held.memory_bytes, held.gpus), gpus=gpus, milli=options.gpu_milli)
    kind = in_group(claim, demand_of(options, gpus=gpus, cpu_milli=0, memory_bytes=0))
    return default_size(feasibility.check_kind(claim.offers, kind), gpus=gpus, milli=options.gpu_milli)


def in_group(claim: Claim, demand: Demand) -> Demand:
    """The demand for GPUs of its capacity group's model alone: what a group holds and lends is of one pool.

    Raises:
        Unprocessable: `capacity_group_model`, it asks for other models only.
    """
    if claim.group is None or claim.group.gpu_model is None or not demand.shape.gpus:
        return demand
    models = narrowed(demand.models, claim.group.gpu_model, known={offer.model for offer in claim.offers})
    if not models:
        raise Unprocessable(
            f"The capacity group {claim.group.name!r} is of {claim.group.gpu_model}; "
            f"{' or '.join(demand.models)} was asked for.",
            code="capacity_group_model",
        )
    return replace(demand, models=models)


def check(session: Session, claim: Claim, demand: Demand) -> list[str]:
    """The GPU models with which it could run if nothing else did; none for a request without GPUs.

    Raises:
        Unprocessable: nothing could run it; the code says what stands against it for ever.
    """
    if demand not in claim.checked:
        claim.checked[demand] = _check(session, claim, demand)
    return claim.checked[demand]


def _check(session: Session, claim: Claim, demand: Demand) -> list[str]:
    if claim.reservation is None:
        models = feasibility.check(claim.offers, demand)
    else:
        _check_reservation(claim.reservation, claim.offers, demand)
        try:
            models = feasibility.check(claim.offers, demand)
        except Unprocessable as error:
            raise Unprocessable(
                f"Its reservation can't bear it: {error.detail}", code="reservation_mismatch"
            ) from error
    if demand.shape.gpus:  # nothing else has a price
        feasibility.priced(session, models, customer_id=claim.customer_id, group=claim.run.capacity_group)
    if claim.group is not None and demand.gpu_milli > (most := capacity.reach_milli(session, claim.group)):
        raise Unprocessable(
            f"The capacity group {claim.group.name!r} can hold {_gpus(most)} GPUs, with all that it may borrow; "
            f"{_gpus(demand.gpu_milli)} were asked for.",
            code="capacity_group_exceeded",
        )
    return models


def _check_reservation(reservation: Reservation, offers: Sequence[Offer], demand: Demand) -> None:
    if demand.bound_host_id is not None and all(offer.host_id != demand.bound_host_id for offer in offers):
        raise Unprocessable("Its volume lives on another host than its reservation's.", code="reservation_mismatch")
    if not demand.shape.gpus:
        raise Unprocessable("A reservation is of GPUs, and it asks for none.", code="reservation_mismatch")
    for asked, held, what in (
        (demand.nodes, reservation.nodes, "hosts"),
        (demand.shape.gpus, reservation.gpus, "GPUs on a host"),
        (demand.shape.cpu_milli, reservation.cpu_milli, "milli-cores on a host"),
        (demand.shape.memory_bytes, reservation.memory_bytes, "bytes of memory on a host"),
    ):
        if asked > held:
            raise Unprocessable(
                f"{asked} {what} were asked for; its reservation has {held}.", code="reservation_mismatch"
            )


def _gpus(milli: int) -> str:
    return f"{milli / 1000:g}"
