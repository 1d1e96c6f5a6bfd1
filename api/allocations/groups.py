"""Placement groups in the state of record: named before they exist, handed on when idle, dropped when in the way."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from api.allocations.tables import PlacementGroup
from api.bulk import insert_rows, update_rows
from api.ids import new_uid
from api.pipeline import Pipeline, send

MAX_DROPS = 1000
"""How many groups are given out to be dropped at once."""

_IDLE = text(
    "select id, name, host_id, gpu_ids, cpu_milli, memory_bytes from placement_groups where host_id = any(:hosts)"
    " and state = 'reserved' and allocation_id is null order by idle_since, id for update"
)
_DISCARD = text(
    "update placement_groups set state = 'removing', allocation_id = null, idle_since = null where id = any(:ids)"
)
_RESERVED = text(
    "update placement_groups set state = 'reserved' where allocation_id = any(:ids) and state = 'intended'"
)
_ABANDON = text(
    "update placement_groups set state = 'removing', allocation_id = null"
    " where allocation_id = any(:ids) and state <> 'removed'"
)
# A group that is sure to be whole stays idle for the next of its shape. One of several hosts is hardly ever fitting
# for the next gang, and one of a share says too little of what is left of its device: they go.
_HAND_BACK = text(
    "update placement_groups g set allocation_id = null, state = case when k.kept then 'reserved' else 'removing' end,"
    " idle_since = case when k.kept then :now end from (select g.id,"
    " g.state = 'reserved' and cardinality(g.host_ids) = 1 and a.milli = 1000 and h.device_status = 'online' as kept"
    " from placement_groups g"
    " join allocations a on a.id = g.allocation_id join hosts h on h.id = g.host_id"
    " where g.allocation_id = any(:ids) and g.state <> 'removed') k where g.id = k.id"
)
_IN_THE_WAY = text(
    "select name, host_ids from placement_groups where state = 'removing' and host_ids && cast(:hosts as bigint[])"
    " order by id"
)


class GroupState(StrEnum):
    INTENDED = "intended"  # -> reserved, removing
    RESERVED = "reserved"  # -> removing; without an owner it is idle
    REMOVING = "removing"  # -> removed
    REMOVED = "removed"  # terminal


@dataclass(frozen=True, slots=True)
class Wanted:
    """The group of an allocation that is being placed, in its new generation; one bundle on each host."""

    allocation_id: int
    name: str
    host_ids: tuple[int, ...]
    gpu_ids: tuple[int, ...]  # of all hosts, sorted
    whole: bool  # whole devices
    cpu_milli: int  # of each bundle
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Idle:
    id: int
    name: str
    host_id: int
    gpu_ids: tuple[int, ...]
    cpu_milli: int
    memory_bytes: int

    def serves(self, wanted: Wanted) -> bool:
        """Whether it is exactly of the shape that is wanted."""
        return wanted.whole and (wanted.host_ids, wanted.gpu_ids, wanted.cpu_milli, wanted.memory_bytes) == (
            (self.host_id,),
            self.gpu_ids,
            self.cpu_milli,
            self.memory_bytes,
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """A `new` one does not exist in Ray yet."""

    name: str
    new: bool


@dataclass(slots=True)
class Groups:
    """The idle groups on some hosts, the longest idle first, and what has become of them since they were read."""

    _idle: dict[int, list[Idle]]
    _discarded: list[Idle] = field(default_factory=list)
    _handed_on: dict[int, Idle] = field(default_factory=dict)  # by allocation id
    _new: list[Wanted] = field(default_factory=list)

    def take(self, wanted: Wanted, room: Mapping[int, tuple[int, int]]) -> Taken:
        """An idle group of exactly its shape, else a new one, before which those that are in its way in Ray go.

        `room` is CPU and memory of its hosts that no allocation holds, this one's counted already.
        """
        for idle in self._idle.get(wanted.host_ids[0], ()):
            if idle.serves(wanted):
                self._idle[idle.host_id].remove(idle)
                self._handed_on[wanted.allocation_id] = idle
                return Taken(idle.name, new=False)
        for host_id in wanted.host_ids:
            self._make_room(host_id, set(wanted.gpu_ids), *room[host_id])
        self._new.append(wanted)
        return Taken(wanted.name, new=True)

    def _make_room(self, host_id: int, gpu_ids: set[int], cpu_milli: int, memory_bytes: int) -> None:
        """Discard idle groups on the wanted devices, then the longest idle ones until CPU and memory suffice."""
        idle = self._idle.get(host_id, [])
        kept = [group for group in idle if gpu_ids.isdisjoint(group.gpu_ids)]
        cpu_milli -= sum(group.cpu_milli for group in kept)
        memory_bytes -= sum(group.memory_bytes for group in kept)
        while kept and (cpu_milli < 0 or memory_bytes < 0):
            oldest = kept.pop(0)
            cpu_milli += oldest.cpu_milli
            memory_bytes += oldest.memory_bytes
        self._discarded += [group for group in idle if group not in kept]
        self._idle[host_id] = kept

    def write(self, session: Session) -> None:
        """What was taken and discarded since the last time."""
        if self._discarded:
            send(session, _DISCARD, {"ids": [group.id for group in self._discarded]})
        handed_on = [
            {"id": idle.id, "allocation_id": allocation_id, "idle_since": None}
            for allocation_id, idle in self._handed_on.items()
        ]
        update_rows(session, PlacementGroup, ("id",), handed_on)
        insert_rows(session, PlacementGroup, [_row(wanted) for wanted in self._new])
        self._discarded, self._handed_on, self._new = [], {}, []


def ask_idle(pipeline: Pipeline, host_ids: Sequence[int]) -> Callable[[], Groups]:
    """The idle groups on these hosts, locked."""
    rows = pipeline.ask(_IDLE, {"hosts": host_ids})

    def told() -> Groups:
        idle: defaultdict[int, list[Idle]] = defaultdict(list)
        for group_id, name, host_id, gpu_ids, cpu_milli, memory_bytes in rows.all():
            idle[host_id].append(Idle(group_id, name, host_id, tuple(gpu_ids), cpu_milli, memory_bytes))
        return Groups(dict(idle))

    return told


def mark_reserved(session: Session, allocation_ids: Sequence[int]) -> None:
    """Their groups are known to exist in Ray."""
    send(session, _RESERVED, {"ids": allocation_ids})


def abandon(session: Session, allocation_ids: Sequence[int]) -> None:
    """Nobody wants their groups any more; they may exist in Ray or not."""
    send(session, _ABANDON, {"ids": allocation_ids})


def hand_back(session: Session, allocation_ids: Sequence[int], *, now: datetime) -> None:
    """At release: a group that is sure to be whole may stay idle for the next of its shape, any other is dropped."""
    send(session, _HAND_BACK, {"ids": allocation_ids, "now": now})


@dataclass(frozen=True, slots=True)
class InTheWay:
    """Names of groups that must be gone before another can be reserved there, by host."""

    _names: Mapping[int, Sequence[str]]

    def on(self, host_ids: Sequence[int]) -> set[str]:
        return {name for host_id in host_ids for name in self._names.get(host_id, ())}


def in_the_way(session: Session, host_ids: Sequence[int]) -> InTheWay:
    """What is in the way of new groups on these hosts."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    if host_ids:
        for name, on_hosts in session.execute(_IN_THE_WAY, {"hosts": host_ids}).all():
            for host_id in on_hosts:
                names[host_id].append(name)
    return InTheWay(names)


def to_drop(session: Session, *, now: datetime, idle_s: float) -> list[str]:
    """Give up groups that were idle for `idle_s` seconds, and name all that nobody wants."""
    overdue = update(PlacementGroup).where(
        PlacementGroup.state == GroupState.RESERVED,
        PlacementGroup.allocation_id.is_(None),
        PlacementGroup.idle_since <= now - timedelta(seconds=idle_s),
    )
    session.execute(overdue.values(state=GroupState.REMOVING, idle_since=None))
    query = select(PlacementGroup.name).where(PlacementGroup.state == GroupState.REMOVING)
    return list(session.scalars(query.order_by(PlacementGroup.id).limit(MAX_DROPS)))


def dropped(session: Session, names: Sequence[str]) -> set[str]:
    """They are gone; answers those of which that was not known."""
    if not names:
        return set()
    done = (
        update(PlacementGroup)
        .where(PlacementGroup.name == func.any(list(names)), PlacementGroup.state == GroupState.REMOVING)
        .values(state=GroupState.REMOVED, removed_at=func.now())
        .returning(PlacementGroup.name)
    )
    return set(session.scalars(done))


def _row(wanted: Wanted) -> dict[str, object]:
    return {
        "uid": new_uid(),
        "name": wanted.name,
        "host_id": wanted.host_ids[0],
        "host_ids": wanted.host_ids,
        "allocation_id": wanted.allocation_id,
        "state": GroupState.INTENDED,
        "gpu_ids": wanted.gpu_ids,
        "cpu_milli": wanted.cpu_milli,
        "memory_bytes": wanted.memory_bytes,
    }
