"""Verdicts on requests that do not start, each with a sentence for people."""

from dataclasses import replace
from datetime import datetime

from scheduler.engine.blocked import Blocked, Code, Epoch
from scheduler.engine.holdings import resources
from scheduler.engine.kept import Kept
from scheduler.engine.lookahead import Start
from scheduler.engine.state import State
from scheduler.money import worst_case_charge_micro
from scheduler.quota import shortage
from scheduler.views import Part, Request, Reservation

MAY_BE_KEPT_FOR = frozenset({Code.NO_CAPACITY, Code.BEHIND_OTHERS, Code.BOUND_HOST_BUSY})


def limit(state: State, request: Request, epoch: Epoch) -> Blocked | None:
    """The customer's own limit that stands against it now."""
    customer = state.customer(request.customer_id)
    if customer.disabled:
        return Blocked(Code.QUOTA, "The customer is disabled.", epoch)
    held = state.holdings.of_customer(request.customer_id)
    if lacking := shortage(customer.limits, held=held, asked=resources(request.demand)):
        return Blocked(Code.QUOTA, f"{lacking[0].upper()}{lacking[1:]}.", epoch)
    return _unpaid(state, request, epoch)


def _unpaid(state: State, request: Request, epoch: Epoch) -> Blocked | None:
    customer = state.customer(request.customer_id)
    prices = customer.prices_micro_per_gpu_hour
    models = state.cluster.models(request.demand)
    known = [prices[model] for model in models if model in prices]
    if customer.available_micro is None or not models or not request.demand.gpu_milli:
        return None
    if not known:
        return Blocked(Code.NO_PRICE, f"No price is set for {' or '.join(sorted(models))}.", epoch)
    cost = worst_case_charge_micro(
        price_micro_per_gpu_hour=min(known), milli=request.demand.gpu_milli, duration_ms=1000 * request.hold_s
    )
    if cost <= customer.available_micro:
        return None
    minutes = -(-request.hold_s // 60)
    detail = f"The balance does not cover its first {minutes} minutes."
    return Blocked(Code.BALANCE, detail, epoch, {"needed_micro": cost, "available_micro": customer.available_micro})


def group_is_full(state: State, request: Request, epoch: Epoch, until: datetime | None) -> Blocked:
    assert request.group is not None
    milli = request.demand.gpu_milli
    available, most = state.capacity.available(request.group) or 0, state.capacity.most(request.group) or 0
    figures = {"available_milli": max(0, available), "wanted_milli": milli, "most_milli": most}
    if milli > most:
        detail = f"Capacity group {request.group} may never use more than {gpus(most)} GPUs; {gpus(milli)} are needed."
    else:
        detail = (
            f"Capacity group {request.group} may use {gpus(max(0, available))} more GPUs now, with what it may borrow; "
            f"{gpus(milli)} are needed."
        )
    return Blocked(Code.CAPACITY_GROUP, detail, epoch, figures, until)


def no_place(state: State, request: Request, epoch: Epoch, until: datetime | None) -> Blocked:
    found = state.cluster.shortage(request.demand, request.customer_id)
    code, detail = _sentence(state, request, found)
    figures = {"free": found.free, "total": found.total, "wanted": request.demand.nodes * request.demand.shape.gpus}
    return Blocked(code, detail, epoch, figures, until)


def preempting(kept: Kept, epoch: Epoch) -> Blocked:
    count = len(kept.victims)
    whose = "1 allocation gives" if count == 1 else f"{count} allocations give"
    return Blocked(Code.PREEMPTING, f"{whose} way to it now.", epoch, {"victims": count}, None, kept.since, "limits")


def with_start(verdict: Blocked, start: Start) -> Blocked:
    return replace(verdict, eta=start.at, eta_basis="limits" if start.certain else "estimate")


def in_reservation(state: State, request: Request, epoch: Epoch, now: datetime) -> tuple[Part, ...] | Blocked:
    """A place among the devices of its reservation."""
    reservation = state.reservations.get(request.reservation_id or 0)
    if reservation is None or reservation.ends_at <= now:
        return Blocked(Code.RESERVATION, "Its reservation is over.", epoch)
    if now < reservation.starts_at:
        detail = f"Its reservation begins at {reservation.starts_at:%Y-%m-%d %H:%M} UTC."
        return Blocked(
            Code.RESERVATION, detail, epoch, None, reservation.starts_at, reservation.starts_at, "reservation"
        )
    if (limited := limit(state, request, epoch)) is not None:
        return limited
    parts = _inside(state, request, reservation)
    return parts or Blocked(Code.RESERVATION, "Others in its reservation use what it needs.", epoch)


def _inside(state: State, request: Request, reservation: Reservation) -> tuple[Part, ...] | None:
    shape, found = request.demand.shape, []
    for part in reservation.parts:
        room = state.cluster.room(part.host_id)
        free = {device.gpu_id for device in room.devices if device.held_milli + shape.milli <= 1000}
        chosen = [gpu_id for gpu_id, _ in part.devices if gpu_id in free][: shape.gpus]
        if len(chosen) == shape.gpus:
            found.append(Part(part.host_id, tuple((gpu_id, shape.milli) for gpu_id in chosen)))
    return tuple(found[: request.demand.nodes]) if len(found) >= request.demand.nodes else None


def gpus(milli: int) -> str:
    return f"{milli / 1000:g}"
