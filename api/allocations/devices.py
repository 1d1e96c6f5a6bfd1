"""Device shares: whose each device is, for a period that stays open until release is confirmed."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation, AllocationDevice
from api.machines.tables import Gpu
from scheduler.host_protocol import DeviceShare

_PLACEMENT_LOCK = 7_301_003


def lock_placement(session: Session) -> datetime:
    """Take the first lock of the order, and tell the server's time under it.

    Racing inserts would deadlock on the exclusion constraint. Under the lock the server's clock orders the periods: a
    transaction's own `now()` is the time of its start, and a row that was closed since then would seem to overlap.
    """
    session.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _PLACEMENT_LOCK})
    moment: datetime = session.execute(text("select clock_timestamp()")).scalar_one()
    return moment


def occupy(session: Session, allocation: Allocation, gpu_ids: Sequence[int], *, since: datetime) -> None:
    """Write the rows of whole devices, in the transaction that gives the allocation its new generation: what a list
    shows of an allocation never changes without its own row. The exclusion constraint refuses what another one holds.
    """
    session.add_all(
        AllocationDevice(
            allocation_id=allocation.id, gpu_id=gpu_id, generation=allocation.generation, period=Range(since, None)
        )
        for gpu_id in gpu_ids
    )
    session.flush()


def vacate(session: Session, allocation: Allocation, *, at: datetime) -> None:
    """Close the rows of an allocation that are still open."""
    lower = func.lower(AllocationDevice.period)
    held = update(AllocationDevice).where(
        AllocationDevice.allocation_id == allocation.id, func.upper_inf(AllocationDevice.period)
    )
    session.execute(
        held.values(period=func.tstzrange(lower, func.greatest(lower, at))).execution_options(synchronize_session=False)
    )


def shares_of(session: Session, allocation: Allocation) -> tuple[DeviceShare, ...]:
    """What the allocation's current generation has, in the order of the devices' index."""
    query = (
        select(Gpu.uuid, AllocationDevice.milli_to - AllocationDevice.milli_from)
        .join(AllocationDevice, AllocationDevice.gpu_id == Gpu.id)
        .where(AllocationDevice.allocation_id == allocation.id, AllocationDevice.generation == allocation.generation)
        .order_by(Gpu.index)
    )
    return tuple(DeviceShare(uuid, milli) for uuid, milli in session.execute(query))
