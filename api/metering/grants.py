"""What allocations had been granted, read for screening their windows, with their holds and the money locked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.charges import LockedHold
from api.billing.coverage import Stretch
from api.billing.stretches import Key, ask_earlier, present
from api.clock import to_ms
from api.metering.screening import Grant, OwnedDevice
from api.pipeline import pipelined

_HOLDS = text(
    "select h.allocation_id, h.generation, h.customer_id, h.price_version_id, h.terms, h.price_micro_per_gpu_hour,"
    " h.price_from_ms, h.price_until_ms, h.starts_ms, h.covers_until_ms, h.billable_until_ms,"
    " h.closed_at is not null as closed, h.last_boot_ids is not null as ends_with_windows"
    " from holds h where h.allocation_id in (select id from allocations where uid = any(:uids))"
    " order by h.allocation_id, h.generation for no key update of h"
)
_DEVICES = text(
    "select d.allocation_id, d.generation, g.id as gpu_id, g.uuid, g.host_id, sum(d.milli_to - d.milli_from) as milli"
    " from allocation_devices d join gpus g on g.id = d.gpu_id"
    " where d.allocation_id in (select id from allocations where uid = any(:uids))"
    " group by d.allocation_id, d.generation, g.id"
)
# The currency is not read with the locks: a row whose version changes while it is waited for would fall out of a join.
_ALLOCATIONS = text(
    "select a.id, a.uid, a.generation, a.run_until, p.currency from allocations a"
    " left join holds h on h.allocation_id = a.id and h.generation = a.generation"
    " left join price_versions p on p.id = h.price_version_id where a.uid = any(:uids)"
)


@dataclass(frozen=True, slots=True)
class LockedGrant:
    """`hold` is the current generation's, locked; None if that was never placed."""

    grant: Grant
    hold: LockedHold | None


def lock_grants(session: Session, allocation_uids: Iterable[str]) -> dict[str, LockedGrant]:
    """By allocation uid as hosts write it. Locks hold rows only, in the order of their allocations' ids."""
    uids = {"uids": [parsed for uid in allocation_uids if (parsed := _uuid(uid)) is not None]}
    with pipelined(session) as pipeline:
        locked = pipeline.ask(_HOLDS, uids)
        owned = pipeline.ask(_DEVICES, uids)
        # Read after the holds are locked: a settlement that came first is seen, and none comes in between.
        allocations = pipeline.ask(_ALLOCATIONS, uids)
        holds = {(row.allocation_id, row.generation): row for row in locked.all()}
        devices: dict[tuple[int, int], dict[str, OwnedDevice]] = {}
        for row in owned.all():
            device = OwnedDevice(row.gpu_id, row.host_id, row.milli)
            devices.setdefault((row.allocation_id, row.generation), {})[row.uuid] = device
        rows = allocations.all()
    earlier = _earlier(session, [key for key, hold in holds.items() if hold.price_from_ms > hold.starts_ms])
    found = {}
    for row in rows:
        key = (row.id, row.generation)
        hold = holds.get(key)
        grant = _grant(row, hold, devices.get(key, {}))
        locked_hold = None if hold is None else _locked(hold, row.currency, earlier.get(key, ()))
        found[str(row.uid)] = LockedGrant(grant, locked_hold)
    return found


def _earlier(session: Session, keys: Sequence[Key]) -> Mapping[Key, Sequence[Stretch]]:
    """Stretches at earlier prices; few holds have had several."""
    if not keys:
        return {}
    with pipelined(session) as pipeline:
        return ask_earlier(pipeline, keys)()


def _grant(allocation: Any, hold: Any, devices: dict[str, OwnedDevice]) -> Grant:  # Any: rows
    run_until_ms = None if allocation.run_until is None else to_ms(allocation.run_until)
    if hold is not None and run_until_ms is not None:
        run_until_ms = min(run_until_ms, hold.covers_until_ms)
    return Grant(
        generation=allocation.generation,
        starts_ms=hold.starts_ms if hold else None,
        run_until_ms=run_until_ms,
        ended_ms=hold.billable_until_ms if hold else None,
        devices=devices,
    )


def _locked(hold: Any, currency: str, earlier: Sequence[Stretch]) -> LockedHold:  # Any: a row
    return LockedHold(
        allocation_id=hold.allocation_id,
        generation=hold.generation,
        customer_id=hold.customer_id,
        currency=currency,
        stretches=(*earlier, present(hold)),
        closed=hold.closed,
        ends_with_windows=hold.ends_with_windows,
    )


def _uuid(text: str) -> UUID | None:
    """The id in a uid as leases write it; other spellings of it are nobody's."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text else None
