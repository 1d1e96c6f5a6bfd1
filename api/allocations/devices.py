"""Device shares: whose each device is, for a period that stays open until release is confirmed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, any_, literal, or_, text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.bulk import document, recordset
from api.pipeline import Pipeline, pipelined, send
from scheduler.money import MILLI_PER_GPU

_PLACEMENT_LOCK = 7_301_003
_LOCK = text("select pg_advisory_xact_lock(:lock)")
_MOMENT = text("select clock_timestamp() as moment")

_HELD = text(
    "select d.gpu_id, d.milli_from, d.milli_to,"
    " (select customer_id from allocations a where a.id = d.allocation_id) as customer_id"
    " from allocation_devices d where d.gpu_id = any(:ids) and upper_inf(d.period)"
)
_VACATE = text(
    "update allocation_devices set period = tstzrange(lower(period), greatest(lower(period), :at))"
    " where allocation_id = any(:ids) and upper_inf(period)"
)

_ALIKE = ("allocation_id", "generation", "milli_from", "milli_to")
_OCCUPY = text(
    f"insert into allocation_devices ({', '.join(_ALIKE)}, gpu_id, period)"
    f" select {', '.join(_ALIKE)}, gpu_id, tstzrange(:since, null) from"
    f" {recordset(allocation_id='bigint', generation='int', milli_from='int', milli_to='int', gpu_ids='bigint[]')},"
    " unnest(gpu_ids) as gpu_id"
)


@dataclass(frozen=True, slots=True)
class Share:
    """`milli_from..milli_to` thousandths of a device."""

    gpu_id: int
    milli_from: int
    milli_to: int


@dataclass(slots=True)
class Shares:
    """What is held of some devices, in whose name, and what was taken since."""

    _held: dict[int, list[Share]]
    _customers: dict[int, int]  # by device: those of a shared one are all of one customer

    def take(self, gpu_id: int, milli: int, *, customer_id: int) -> list[Share] | None:
        """Free ranges that make up so many thousandths, taken from now on; None if there are not enough.

        Memory of a device is not partitioned between its shares, so that they are of one customer only.
        """
        held = self._held.setdefault(gpu_id, [])
        if held and self._customers[gpu_id] != customer_id:
            return None
        taken: list[Share] = []
        for free_from, free_to in _gaps(held):
            if milli == 0:
                break
            length = min(milli, free_to - free_from)
            taken.append(Share(gpu_id, free_from, free_from + length))
            milli -= length
        if milli > 0:
            return None
        held.extend(taken)
        self._customers[gpu_id] = customer_id
        return taken

    def give_back(self, shares: Iterable[Share]) -> None:
        """Undo what was taken."""
        for share in shares:
            self._held[share.gpu_id].remove(share)


def holding_on(host_id: int) -> ColumnElement[bool]:
    """The condition that an allocation holds something on a host: devices, or CPU and memory alone."""
    first = Allocation.host_id == host_id
    others = and_(Allocation.nodes > 1, literal(host_id) == any_(Allocation.host_ids))
    return and_(Allocation.holds(), or_(first, others))


def lock_placement(session: Session) -> datetime:
    """Take the first lock of the order, and tell the server's time under it.

    Racing inserts would deadlock on the exclusion constraint. Under the lock the server's clock orders the periods: a
    transaction's own `now()` is the time of its start, and a row that was closed since then would seem to overlap.
    """
    with pipelined(session) as pipeline:
        return ask_placement_lock(pipeline)()


def ask_placement_lock(pipeline: Pipeline) -> Callable[[], datetime]:
    """The same, told later. What is sent after it waits for it."""
    pipeline.ask(_LOCK, {"lock": _PLACEMENT_LOCK})
    moment = pipeline.ask(_MOMENT, {})

    def told() -> datetime:
        (row,) = moment.all()
        at: datetime = row.moment
        return at

    return told


def ask_shares(pipeline: Pipeline, gpu_ids: Sequence[int]) -> Callable[[], Shares]:
    """What is held of these devices now. The caller holds the placement lock."""
    rows = pipeline.ask(_HELD, {"ids": gpu_ids})

    def told() -> Shares:
        held: dict[int, list[Share]] = {}
        customers: dict[int, int] = {}
        for gpu_id, milli_from, milli_to, customer_id in rows.all():
            held.setdefault(gpu_id, []).append(Share(gpu_id, milli_from, milli_to))
            customers[gpu_id] = customer_id
        return Shares(held, customers)

    return told


def occupy(session: Session, taken: Mapping[tuple[int, int], Sequence[Share]], *, since: datetime) -> None:
    """Write the rows of shares by (allocation id, generation), in the transaction that gives the allocation that
    generation: what a list shows of an allocation never changes without its own row.

    Raises:
        sqlalchemy.exc.IntegrityError: the exclusion constraint refuses what another one holds (invariant I2).
    """
    devices: dict[tuple[int, int, int, int], list[int]] = {}
    for (allocation_id, generation), shares in taken.items():
        for share in shares:
            alike = allocation_id, generation, share.milli_from, share.milli_to
            devices.setdefault(alike, []).append(share.gpu_id)
    rows = [dict(zip(_ALIKE, alike, strict=True), gpu_ids=gpu_ids) for alike, gpu_ids in devices.items()]
    if rows:
        send(session, _OCCUPY, {"rows": document(rows), "since": since})


def vacate(session: Session, allocation_ids: Sequence[int], *, at: datetime) -> None:
    """Close the rows of allocations that are still open."""
    if allocation_ids:
        send(session, _VACATE, {"ids": list(allocation_ids), "at": at})


def _gaps(held: Iterable[Share]) -> list[tuple[int, int]]:
    """The free ranges of a device, in their order."""
    gaps, free_from = [], 0
    for share in sorted(held, key=lambda share: share.milli_from):
        if share.milli_from > free_from:
            gaps.append((free_from, share.milli_from))
        free_from = max(free_from, share.milli_to)
    return [*gaps, (free_from, MILLI_PER_GPU)] if free_from < MILLI_PER_GPU else gaps
