"""What would have to leave one host so that one part of a request fits there, at the least cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scheduler.cluster.pools import NOBODY
from scheduler.cluster.room import Room
from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU
from scheduler.views import Held, Part


@dataclass(frozen=True, slots=True)
class Clearing:
    """`cost` is in GPU-seconds that are lost. `victims` may be empty."""

    part: Part
    model: str
    victims: tuple[Held, ...]
    cost: float


@dataclass(slots=True)
class _Space:
    """One model's devices on a host, while victims are taken away."""

    cpu_milli: int
    memory_bytes: int
    free: dict[int, int]  # thousandths by gpu id
    owner: dict[int, int]  # the customer that has a part of a device

    @staticmethod
    def of(room: Room) -> "_Space":
        return _Space(
            room.cpu_milli,
            room.memory_bytes,
            {device.gpu_id: device.free_milli for device in room.devices},
            {device.gpu_id: device.owner for device in room.devices},
        )

    def add(self, victim: Held, host_id: int, sign: int = 1) -> None:
        shape = victim.request.demand.shape
        for part in victim.parts:
            if part.host_id != host_id:
                continue
            self.cpu_milli += sign * shape.cpu_milli
            self.memory_bytes += sign * shape.memory_bytes
            for gpu_id, milli in part.devices:
                if gpu_id in self.free:
                    self.free[gpu_id] += sign * milli

    def devices(self, demand: Demand, customer_id: int) -> list[int]:
        """Those that could be taken now, the fullest first."""
        shape = demand.shape
        fitting = [
            gpu_id
            for gpu_id, free in self.free.items()
            if free >= shape.milli and (free == MILLI_PER_GPU or self.owner[gpu_id] in (NOBODY, customer_id))
        ]
        return sorted(fitting, key=lambda gpu_id: self.free[gpu_id])

    def fits(self, demand: Demand, customer_id: int) -> bool:
        shape = demand.shape
        enough = not shape.gpus or len(self.devices(demand, customer_id)) >= shape.gpus
        return enough and self.cpu_milli >= shape.cpu_milli and self.memory_bytes >= shape.memory_bytes


def clear_host(
    room: Room, demand: Demand, customer_id: int, victims: Sequence[Held], costs: Mapping[int, float]
) -> Clearing | None:
    """A cheap way to make room among the devices of one model of a host. `costs` are by allocation id.

    Victims are taken by what each costs for what it gives, until the request fits, and then those that are not needed
    are spared; and again by what each costs alone, since one that gives much may give too much. The cheaper way is it.
    """
    gives = {victim.request.allocation_id: _freed(victim, room) for victim in victims}

    def for_what_it_gives(number: int) -> tuple[float, int]:
        return costs[number] / gives[number] if gives[number] else float("inf"), number

    def alone(number: int) -> tuple[float, int]:
        return costs[number], number

    best: Clearing | None = None
    for price in (for_what_it_gives, alone):
        found = _in_order(room, demand, customer_id, _sorted(victims, price), costs)
        if found is None or not found.victims:
            return found
        if best is None or found.cost < best.cost:
            best = found
    return best


def _sorted(victims: Sequence[Held], price: Callable[[int], tuple[float, int]]) -> list[Held]:
    return sorted(victims, key=lambda victim: price(victim.request.allocation_id))


def _freed(victim: Held, room: Room) -> int:
    """Thousandths of the room's devices."""
    wanted = {device.gpu_id for device in room.devices}
    there = [part for part in victim.parts if part.host_id == room.host_id]
    return sum(milli for part in there for gpu_id, milli in part.devices if gpu_id in wanted)


def _in_order(
    room: Room, demand: Demand, customer_id: int, victims: Sequence[Held], costs: Mapping[int, float]
) -> Clearing | None:
    space, chosen = _Space.of(room), list[Held]()
    for victim in victims:
        if space.fits(demand, customer_id):
            break
        space.add(victim, room.host_id)
        chosen.append(victim)
    if not space.fits(demand, customer_id):
        return None
    needed = _without_spare(space, room.host_id, demand, customer_id, chosen, costs)
    taken = space.devices(demand, customer_id)[: demand.shape.gpus]
    part = Part(room.host_id, tuple((gpu_id, demand.shape.milli) for gpu_id in sorted(taken)))
    return Clearing(part, room.model, tuple(needed), sum(costs[victim.request.allocation_id] for victim in needed))


def _without_spare(
    space: _Space, host_id: int, demand: Demand, customer_id: int, chosen: Sequence[Held], costs: Mapping[int, float]
) -> list[Held]:
    """The dearest that is not needed may stay, and so on."""
    needed = list(chosen)
    for victim in sorted(chosen, key=lambda victim: -costs[victim.request.allocation_id]):
        space.add(victim, host_id, -1)
        if space.fits(demand, customer_id):
            needed.remove(victim)
        else:
            space.add(victim, host_id)
    return needed
