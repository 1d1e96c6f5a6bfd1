"""What allocations had been granted, read for screening their windows, with their holds locked."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation, AllocationDevice
from api.billing.tables import Hold, PriceVersion
from api.clock import to_ms
from api.machines.tables import Gpu
from api.metering.screening import Grant, OwnedDevice


@dataclass(frozen=True, slots=True)
class LockedGrant:
    """`hold` is the current generation's, locked, at its `price`; None if that was never placed."""

    grant: Grant
    hold: Hold | None
    price: PriceVersion | None


def lock_grants(session: Session, allocation_uids: Iterable[str]) -> dict[str, LockedGrant]:
    """By allocation uid as hosts write it. Locks hold rows only, in the order of their allocations' ids."""
    wanted = {parsed: uid for uid in allocation_uids if (parsed := _uuid(uid)) is not None}
    known = session.execute(select(Allocation.id, Allocation.uid).where(Allocation.uid.in_(wanted)))
    ids = {allocation_id: uid for allocation_id, uid in known}
    holds = {(hold.allocation_id, hold.generation): hold for hold in _lock_holds(session, ids)}
    devices = _devices(session, ids)
    prices = _prices(session, {hold.price_version_id for hold in holds.values()})
    # Read after the holds are locked: a settlement that came first is seen, and none comes in between.
    query = select(Allocation.id, Allocation.generation, Allocation.run_until).where(Allocation.id.in_(ids))
    found = {}
    for allocation_id, generation, run_until in session.execute(query):
        hold = holds.get((allocation_id, generation))
        run_until_ms = None if run_until is None else to_ms(run_until)
        if hold is not None and run_until_ms is not None:
            run_until_ms = min(run_until_ms, hold.covers_until_ms)
        grant = Grant(
            generation=generation,
            starts_ms=hold.starts_ms if hold else None,
            run_until_ms=run_until_ms,
            ended_ms=hold.billable_until_ms if hold else None,
            devices=devices.get((allocation_id, generation), {}),
        )
        found[wanted[ids[allocation_id]]] = LockedGrant(grant, hold, prices[hold.price_version_id] if hold else None)
    return found


def _lock_holds(session: Session, allocation_ids: Iterable[int]) -> Iterable[Hold]:
    return session.scalars(
        select(Hold)
        .where(Hold.allocation_id.in_(list(allocation_ids)))
        .order_by(Hold.allocation_id, Hold.generation)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )


def _prices(session: Session, ids: Collection[int]) -> dict[int, PriceVersion]:
    return {price.id: price for price in session.scalars(select(PriceVersion).where(PriceVersion.id.in_(ids)))}


def _devices(session: Session, allocation_ids: Iterable[int]) -> dict[tuple[int, int], dict[str, OwnedDevice]]:
    owned = AllocationDevice
    query = (
        select(owned.allocation_id, owned.generation, Gpu.id, Gpu.uuid, Gpu.host_id, _milli())
        .join(Gpu, Gpu.id == owned.gpu_id)
        .where(owned.allocation_id.in_(list(allocation_ids)))
        .group_by(owned.allocation_id, owned.generation, Gpu.id)
    )
    found: dict[tuple[int, int], dict[str, OwnedDevice]] = {}
    for allocation_id, generation, gpu_id, uuid, host_id, milli in session.execute(query):
        found.setdefault((allocation_id, generation), {})[uuid] = OwnedDevice(gpu_id, host_id, int(milli))
    return found


def _milli() -> ColumnElement[int]:
    return func.sum(AllocationDevice.milli_to - AllocationDevice.milli_from)


def _uuid(text: str) -> UUID | None:
    """The id in a uid as leases write it; other spellings of it are nobody's."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text else None
