"""Which devices of which hosts can be set aside for a time: a pure search over what the calendar leaves free."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

FOREVER = datetime.max.replace(tzinfo=UTC)
_MAX_TRIES = 200  # starts that the search for another time looks at


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """From `start`, inclusive, to `end`, exclusive."""

    start: datetime
    end: datetime

    def overlaps(self, other: "Span") -> bool:
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class Slot:
    """A device that would do."""

    gpu_id: int
    host_id: int
    model: str


@dataclass(frozen=True, slots=True)
class Booking:
    """What is set aside on a host already, or held there by what runs: until FOREVER if nothing ends it."""

    span: Span
    host_id: int
    gpu_ids: frozenset[int]
    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Room:
    """All of a host's CPU and memory."""

    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Wish:
    """On each of `nodes` hosts; all devices are of one model, since what runs in it has one price."""

    nodes: int
    gpus: int
    cpu_milli: int
    memory_bytes: int


def choose(
    wish: Wish, span: Span, *, slots: Sequence[Slot], rooms: Mapping[int, Room], bookings: Iterable[Booking]
) -> tuple[Slot, ...] | None:
    """The devices for a time, by host; None if the calendar does not leave enough.

    On the hosts with the fewest others left, so that large gaps stay large.
    """
    near = [booking for booking in bookings if booking.span.overlaps(span)]
    taken = frozenset(gpu_id for booking in near for gpu_id in booking.gpu_ids)
    by_kind: dict[tuple[str, int], list[Slot]] = defaultdict(list)
    for slot in slots:
        if slot.gpu_id not in taken:
            by_kind[slot.model, slot.host_id].append(slot)
    by_model: dict[str, list[tuple[int, int]]] = defaultdict(list)  # left over, host id
    for (model, host_id), free in by_kind.items():
        if len(free) >= wish.gpus and _has_room(wish, span, rooms[host_id], near, host_id):
            by_model[model].append((len(free) - wish.gpus, host_id))
    best = min(
        (
            (sum(left for left, _ in hosts), model, hosts)
            for model, found in by_model.items()
            if len(hosts := sorted(found)[: wish.nodes]) == wish.nodes
        ),
        default=None,
    )
    if best is None:
        return None
    _, model, hosts = best
    return tuple(slot for _, host_id in hosts for slot in by_kind[model, host_id][: wish.gpus])


def next_start(
    wish: Wish, span: Span, *, slots: Sequence[Slot], rooms: Mapping[int, Room], bookings: Sequence[Booking]
) -> datetime | None:
    """The first moment after the span's start from which as much is free for as long; None if none is found.

    Something can only become free when a booking ends.
    """
    length = span.end - span.start
    ends = sorted({booking.span.end for booking in bookings if span.start < booking.span.end < FOREVER})
    for start in ends[:_MAX_TRIES]:
        if choose(wish, Span(start, start + length), slots=slots, rooms=rooms, bookings=bookings) is not None:
            return start
    return None


def peak(amounts: Iterable[tuple[Span, int]]) -> int:
    """The most that is there at any one moment."""
    steps = sorted(
        step for span, amount in amounts for step in ((span.start, amount), (span.end, -amount))
    )  # at one moment what ends comes before what begins
    most = now = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most


def _has_room(wish: Wish, span: Span, room: Room, near: Sequence[Booking], host_id: int) -> bool:
    here = [booking for booking in near if booking.host_id == host_id]
    cpu_milli = peak([(span, wish.cpu_milli), *((booking.span, booking.cpu_milli) for booking in here)])
    memory_bytes = peak([(span, wish.memory_bytes), *((booking.span, booking.memory_bytes) for booking in here)])
    return cpu_milli <= room.cpu_milli and memory_bytes <= room.memory_bytes
