"""Verdicts on requests that do not start, each with a sentence for people."""

from dataclasses import replace
from datetime import datetime

from scheduler.cluster.conditions import Condition
from scheduler.cluster.shortage import Shortage
from scheduler.demand import Demand
from scheduler.engine.blocked import Blocked, Code, Epoch
from scheduler.engine.holdings import resources
from scheduler.engine.kept import Kept
from scheduler.engine.lookahead import Start
from scheduler.engine.state import State
from scheduler.money import MILLI_PER_GPU, worst_case_charge_micro
from scheduler.quota import shortage
from scheduler.views import Part, Request, Reservation

_NAMED_HOSTS = 3  # in a sentence; the rest are counted
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
    if customer.available_micro is None or not request.demand.gpu_milli:
        return None
    models = state.models(request.demand)
    if not models:
        return None
    prices = customer.prices_micro_per_gpu_hour
    known = [prices[model] for model in models if model in prices]
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
    milli = request.demand.gpu_milli
    available, most = max(0, state.capacity.available(request.group) or 0), state.capacity.most(request.group) or 0
    figures = {"available_milli": available, "wanted_milli": milli, "most_milli": most}
    if state.capacity.is_open(request.group):
        detail = f"{gpus(available)} GPUs that are guaranteed to nobody are free; {gpus(milli)} are needed."
    elif milli > most:
        detail = f"Capacity group {request.group} may never use more than {gpus(most)} GPUs; {gpus(milli)} are needed."
    else:
        detail = (
            f"Capacity group {request.group} may use {gpus(available)} more GPUs now, with what it may borrow; "
            f"{gpus(milli)} are needed."
        )
    return Blocked(Code.CAPACITY_GROUP, detail, epoch, figures, until)


def no_place(state: State, request: Request, epoch: Epoch, until: datetime | None) -> Blocked:
    demand = request.demand
    found = state.cluster.shortage(demand)
    wanted = demand.nodes * demand.shape.gpus
    figures = {"free": found.free_gpus, "total": found.gpus, "wanted": wanted}
    if demand.bound_host_id is not None:
        return _on_its_host(state, request, found, Blocked(Code.BOUND_HOST_BUSY, "", epoch, figures, until))
    if not found.schedulable:
        return Blocked(Code.HOST_NOT_AVAILABLE, _no_host(state, request, found), epoch, figures, until)
    what = " or ".join(demand.models)
    free = f"{found.free_gpus} of {found.gpus} {what + ' ' if what else ''}GPUs that fit are free"
    if found.with_room >= demand.nodes:
        return Blocked(Code.BEHIND_OTHERS, f"{free}, and kept for who came before.", epoch, figures, until)
    return Blocked(Code.NO_CAPACITY, f"{free}; {_needed(demand)}{_lacking(demand, found)}.", epoch, figures, until)


def _on_its_host(state: State, request: Request, found: Shortage, verdict: Blocked) -> Blocked:
    host = state.cluster.host(request.demand.bound_host_id or 0)
    if host is None:
        detail = "The host that its volume lives on has left."
        return replace(verdict, code=Code.BOUND_HOST_UNAVAILABLE, detail=detail)
    if not found.schedulable:
        why = host.why_not or "it lacks the GPUs, CPU or memory asked for"
        detail = f"Its volume lives on host {host.name}, which takes no new work now: {why}."
        return replace(verdict, code=Code.BOUND_HOST_UNAVAILABLE, detail=detail)
    detail = (
        f"Its volume lives on host {host.name}, where {found.free_gpus} of {found.gpus} GPUs that fit are free; "
        f"{_needed(request.demand)}{_lacking(request.demand, found)}."
    )
    return replace(verdict, detail=detail)


def _no_host(state: State, request: Request, found: Shortage) -> str:
    """No host that could run it takes new work now."""
    if found.excluding is not None:
        return _excluded(request.demand, found.excluding)
    hosts = [state.cluster.host(host_id) for host_id in state.cluster.hosts_for(request.demand, schedulable=False)]
    named = [f"{host.name}: {host.why_not or 'too small at present'}" for host in hosts[:_NAMED_HOSTS] if host]
    if not named:
        return f"No host has a healthy {' or '.join(request.demand.models) or 'GPU'} now."
    more = f" and {len(hosts) - _NAMED_HOSTS} more" if len(hosts) > _NAMED_HOSTS else ""
    return f"No host that could run it takes new work now ({'; '.join(named)}{more})."


def _excluded(demand: Demand, condition: Condition) -> str:
    """What no host has at all."""
    shape, what = demand.shape, " or ".join(demand.models) or "GPU"
    sentences = {
        Condition.MODEL: f"No host has a healthy {what} now.",
        Condition.MEMORY: f"No {what} has {demand.gpu_memory_bytes} bytes of memory.",
        Condition.SELECTOR: "No host has the labels that it asks for.",
        Condition.DRIVER: f"No host has driver {'.'.join(map(str, demand.driver))} or a newer one.",
        Condition.CUDA: f"No host has CUDA {'.'.join(map(str, demand.cuda))} or a newer one.",
        Condition.BOUND_HOST: "The host that it is bound to is not there.",
        Condition.COUNT: f"No host has {shape.gpus} healthy {what} now.",
        Condition.CPU: f"No host has {shape.cpu_milli} milli-cores of CPU.",
        Condition.MEMORY_BYTES: f"No host has {shape.memory_bytes} bytes of memory.",
    }
    return sentences[condition]


def _needed(demand: Demand) -> str:
    shape = demand.shape
    if shape.milli < MILLI_PER_GPU:
        count, verb = f"{gpus(shape.milli)} of one", "is"
    else:
        count, verb = str(shape.gpus), "is" if shape.gpus == 1 else "are"
    if demand.nodes == 1:
        return f"{count} {verb} needed on one host"
    within = f" with the same {demand.within}" if demand.within else ""
    return f"{count} {verb} needed on each of {demand.nodes} hosts{within}"


def _lacking(demand: Demand, found: Shortage) -> str:
    """What else is short, where there are GPUs enough."""
    if not found.with_gpus:
        return ", with its CPU and memory"
    short = []
    if found.free_cpu_milli < demand.shape.cpu_milli:
        short.append(f"{demand.shape.cpu_milli} milli-cores of CPU ({found.free_cpu_milli} at most are free)")
    if found.free_memory_bytes < demand.shape.memory_bytes:
        short.append(f"{demand.shape.memory_bytes} bytes of memory ({found.free_memory_bytes} at most are free)")
    return f", with {' and '.join(short)}" if short else ", with its CPU and memory"


def preempting(kept: Kept, epoch: Epoch) -> Blocked:
    count = len(kept.victims)
    if not count:
        return Blocked(Code.PREEMPTING, "What ends now makes room for it.", epoch, None, None, kept.since, "limits")
    whose = "1 allocation gives" if count == 1 else f"{count} allocations give"
    return Blocked(Code.PREEMPTING, f"{whose} way to it now.", epoch, {"victims": count}, None, kept.since, "limits")


def patient(epoch: Epoch, until: datetime) -> Blocked:
    detail = "It waits a moment for room to come by itself, before others give way to it."
    return Blocked(Code.PREEMPTING, detail, epoch, None, until, until, "estimate")


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
    parts = _inside(state, request, reservation)
    return parts or Blocked(Code.RESERVATION, "Others in its reservation use what it needs.", epoch)


def _inside(state: State, request: Request, reservation: Reservation) -> tuple[Part, ...] | None:
    shape, found = request.demand.shape, []
    for part in reservation.parts:
        free = _free_inside(state, part)
        chosen = [gpu_id for gpu_id, _ in part.devices if gpu_id in free][: shape.gpus]
        if len(chosen) == shape.gpus:
            found.append(Part(part.host_id, tuple((gpu_id, shape.milli) for gpu_id in chosen)))
    return tuple(found[: request.demand.nodes]) if len(found) >= request.demand.nodes else None


def _free_inside(state: State, part: Part) -> set[int]:
    """Devices of the reservation that nobody holds; the reservation itself keeps them from others."""
    held = {
        gpu_id
        for holder in state.holdings.on_host(part.host_id)
        for other in holder.parts
        if other.host_id == part.host_id
        for gpu_id, _ in other.devices
    }
    return {gpu_id for gpu_id, _ in part.devices} - held


def gpus(milli: int) -> str:
    return f"{milli / 1000:g}"
