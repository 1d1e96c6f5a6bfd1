"""Advance reservations: their devices are kept from others, cleared in time, and given to their own requests."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta

from scheduler.cluster.room import Room
from scheduler.demand import Demand
from scheduler.engine.blocked import Blocked, Code
from scheduler.engine.kept import Asides
from scheduler.engine.state import State
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.shape import Shape
from scheduler.states import AllocationState
from scheduler.views import Held, Part, Request, Reservation


def keep_devices(state: State, asides: Asides) -> None:
    """With the CPU and memory that its own requests do not have yet."""
    for reservation in _in_order(state):
        for part in reservation.parts:
            own = [
                held.request.demand.shape for held in _holders(state, reservation, part) if _is_of(held, reservation)
            ]
            rest = Shape(
                max(0, reservation.cpu_milli - sum(shape.cpu_milli for shape in own)),
                max(0, reservation.memory_bytes - sum(shape.memory_bytes for shape in own)),
            )
            number, customer_id = reservation.reservation_id, reservation.customer_id
            asides.reserve(number, customer_id, Demand(rest), part, reservation.starts_at)


def in_the_way(state: State, now: datetime) -> list[Held]:
    """What has to leave now. Only preemptible work can be there: other work was not let in, or was there before, and
    then its devices could not be reserved.
    """
    grace = timedelta(seconds=state.settings.grace_s)
    begun = [reservation for reservation in _in_order(state) if reservation.starts_at - grace <= now]
    found = {
        held.request.allocation_id: held
        for reservation in begun
        for part in reservation.parts
        for held in _holders(state, reservation, part)
        if _gives_way(held)
    }
    for host_id in sorted({part.host_id for reservation in begun for part in reservation.parts}):
        wanted = [each for each in begun if any(part.host_id == host_id for part in each.parts)]
        found |= {held.request.allocation_id: held for held in _in_the_room(state, host_id, wanted, found)}
    return [found[number] for number in sorted(found)]


def _gives_way(held: Held) -> bool:
    request = held.request
    return request.preemptible and request.reservation_id is None and held.state is AllocationState.ACTIVE


def _in_the_room(
    state: State, host_id: int, reservations: Sequence[Reservation], gone: Collection[int]
) -> Iterator[Held]:
    """Work without GPUs that has to leave a host too, the youngest first, for the CPU and memory of reservations."""
    host, numbers = state.cluster.host(host_id), {each.reservation_id for each in reservations}
    there = [held for held in state.holdings.on_host(host_id) if held.request.allocation_id not in gone]
    without = [held for held in there if not held.request.demand.shape.gpus and _gives_way(held)]
    if host is None or not without:
        return
    staying = [
        held.request.demand.shape
        for held in there
        if held.state is not AllocationState.RELEASING and held.request.reservation_id not in numbers
    ]
    wanted = [*staying, *(Shape(each.cpu_milli, each.memory_bytes) for each in reservations)]
    cpu_milli = host.cpu_milli - sum(each.cpu_milli for each in wanted)
    memory_bytes = host.memory_bytes - sum(each.memory_bytes for each in wanted)
    for held in sorted(without, key=lambda held: (held.since, held.request.allocation_id), reverse=True):
        if cpu_milli >= 0 and memory_bytes >= 0:
            return
        cpu_milli += held.request.demand.shape.cpu_milli
        memory_bytes += held.request.demand.shape.memory_bytes
        yield held


def place_inside(state: State, request: Request, asides: Asides, now: datetime) -> tuple[Part, ...] | Blocked:
    """A place among the devices of its reservation."""
    epoch = state.epoch(request)
    reservation = state.reservations.get(request.reservation_id or 0)
    if reservation is None or reservation.ends_at <= now:
        return Blocked(Code.RESERVATION, "Its reservation is over.", epoch)
    starts_at = reservation.starts_at
    if now < starts_at:
        detail = f"Its reservation begins at {starts_at:%Y-%m-%d %H:%M} UTC."
        return Blocked(Code.RESERVATION, detail, epoch, until=starts_at, eta=starts_at, eta_basis="reservation")
    with asides.inside(reservation):
        parts = _inside(state, request, reservation)
    return parts or Blocked(Code.RESERVATION, _why_not_inside(state, request, reservation), epoch)


def _inside(state: State, request: Request, reservation: Reservation) -> tuple[Part, ...] | None:
    """On hosts of one model, in the order of the reservation."""
    demand, by_model = request.demand, dict[str, list[Part]]()
    hosts = set(state.cluster.hosts_for(demand)) - state.cluster.hosts_apart(demand, request.customer_id)
    for part in reservation.parts:
        for room in state.cluster.rooms(part.host_id, demand) if part.host_id in hosts else ():
            devices = _devices(room, part, request)
            if devices is not None:
                by_model.setdefault(room.model, []).append(Part(part.host_id, devices))
    found = [parts[: demand.nodes] for _, parts in sorted(by_model.items()) if len(parts) >= demand.nodes]
    return tuple(found[0]) if found else None


def _devices(room: Room, part: Part, request: Request) -> tuple[tuple[int, int], ...] | None:
    """Of those reserved, the fullest that will do."""
    shape, reserved = request.demand.shape, {gpu_id for gpu_id, _ in part.devices}
    if room.cpu_milli < shape.cpu_milli or room.memory_bytes < shape.memory_bytes:
        return None
    free = [
        device
        for device in room.devices
        if device.gpu_id in reserved
        and device.free_milli >= shape.milli
        and (device.free_milli == MILLI_PER_GPU or device.owner == request.customer_id)
    ]
    chosen = sorted(free, key=lambda device: device.free_milli)[: shape.gpus]
    return tuple((device.gpu_id, shape.milli) for device in chosen) if len(chosen) == shape.gpus else None


def _why_not_inside(state: State, request: Request, reservation: Reservation) -> str:
    for part in reservation.parts:
        host = state.cluster.host(part.host_id)
        if host is None or not host.schedulable:
            name = f"host {host.name}" if host is not None else "one of its hosts"
            why = host.why_not if host is not None else "it has left"
            return f"Its reservation is on {name}, which takes no new work now: {why}."
    if not set(state.cluster.hosts_for(request.demand)).intersection(part.host_id for part in reservation.parts):
        return "The hosts of its reservation do not have what it asks for."
    for part in reservation.parts:
        if any(not _is_of(held, reservation) for held in _holders(state, reservation, part)):
            return "Earlier work has yet to leave the devices of its reservation."
    return "Others in its reservation use what it needs."


def _in_order(state: State) -> list[Reservation]:
    return [state.reservations[number] for number in sorted(state.reservations)]


def _is_of(held: Held, reservation: Reservation) -> bool:
    return held.request.reservation_id == reservation.reservation_id


def _holders(state: State, reservation: Reservation, part: Part) -> Iterator[Held]:
    """Of the reservation, or of devices of that part of it, on the part's host."""
    devices = {gpu_id for gpu_id, _ in part.devices}
    for held in state.holdings.on_host(part.host_id):
        if _is_of(held, reservation) or any(gpu_id in devices for other in held.parts for gpu_id, _ in other.devices):
            yield held
