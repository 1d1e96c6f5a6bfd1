"""What the loop works with of allocations that hold something: what to grant in Ray and on hosts, what to end there."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from api.allocations.groups import in_the_way
from api.clock import to_ms
from api.settings import Settings
from scheduler.host_protocol import DeviceShare, Lease
from scheduler.ports import Admitted, HostShare, Releasing

_PLACING = text(
    "select a.id, a.uid, a.generation, a.host_ids, a.cpu_milli, a.memory_bytes, a.disk_bytes, a.run_until,"
    " a.image_reference, a.container_name, a.home_volume, c.uid as customer_uid, g.name as group_name,"
    " g.state as group_state from allocations a join customers c on c.id = a.customer_id"
    " join placement_groups g on g.allocation_id = a.id and g.state <> 'removed'"
    " where a.id = any(:ids) and a.state = 'placing' order by a.id"
)
# A share may take several range rows.
_DEVICES = text(
    "select s.allocation_id, s.generation, d.host_id, d.uuid, sum(s.milli_to - s.milli_from)::int"
    " from allocation_devices s join gpus d on d.id = s.gpu_id where s.allocation_id = any(:ids)"
    " and upper_inf(s.period) group by s.allocation_id, s.generation, d.id order by s.allocation_id, d.index"
)
_HOSTS = text("select id, uid from hosts where id = any(:ids)")
_RELEASING = text(
    "select a.id, a.uid, a.generation, array_remove(array_agg(h.uid order by array_position(a.host_ids, h.id)), null)"
    " as host_uids from allocations a left join hosts h on h.id = any(a.host_ids) and h.device_status <> 'lost'"
    " where a.id = any(:ids) and a.state = 'releasing' group by a.id order by a.id"
)

Bundles = Mapping[int, tuple[DeviceShare, ...]]  # devices by host id


def load_admitted(session: Session, allocation_ids: Sequence[int], *, settings: Settings) -> list[Admitted]:
    """Those in `placing`, by id."""
    if not allocation_ids:
        return []
    rows = session.execute(_PLACING, {"ids": allocation_ids}).all()
    bundles = _bundles(session, allocation_ids)
    host_ids = sorted({host_id for row in rows for host_id in row.host_ids})
    host_uids = {host_id: str(uid) for host_id, uid in session.execute(_HOSTS, {"ids": host_ids}).all()}
    dropping = in_the_way(session, host_ids)
    return [_admitted(row, bundles[row.id], host_uids, dropping, settings) for row in rows]


def load_releasing(session: Session, allocation_ids: Sequence[int], *, settings: Settings) -> list[Releasing]:
    """Those in `releasing`, by id."""
    return [
        Releasing(
            allocation_id=row.id,
            allocation_uid=str(row.uid),
            generation=row.generation,
            host_uids=tuple(map(str, row.host_uids)),
            grace_s=settings.stop_grace_s,
        )
        for row in session.execute(_RELEASING, {"ids": allocation_ids}).all()
    ]


def _bundles(session: Session, allocation_ids: Sequence[int]) -> Mapping[int, Bundles]:
    found: dict[int, dict[int, tuple[DeviceShare, ...]]] = defaultdict(dict)
    for allocation_id, _, host_id, uuid, milli in session.execute(_DEVICES, {"ids": allocation_ids}).all():
        bundles = found[allocation_id]
        bundles[host_id] = (*bundles.get(host_id, ()), DeviceShare(uuid, milli))
    return found


def _admitted(
    row: Row[Any],
    bundles: Bundles,
    host_uids: Mapping[int, str],
    dropping: Mapping[int, Sequence[str]],
    settings: Settings,
) -> Admitted:
    hosts = [(host_uids[host_id], bundles[host_id]) for host_id in row.host_ids]
    new = row.group_state == "intended"
    drop = {name for host_id in row.host_ids for name in dropping.get(host_id, ())} if new else set()
    return Admitted(
        allocation_id=row.id,
        generation=row.generation,
        group_name=row.group_name,
        shares=tuple(HostShare(uid, devices, row.cpu_milli, row.memory_bytes) for uid, devices in hosts),
        leases=tuple(_lease(row, uid, devices, settings) for uid, devices in hosts),
        drop_groups=tuple(sorted(drop)),
    )


def _lease(row: Row[Any], host_uid: str, devices: tuple[DeviceShare, ...], settings: Settings) -> Lease:
    return Lease(
        allocation_uid=str(row.uid),
        generation=row.generation,
        customer_uid=str(row.customer_uid),
        devices=devices,
        cpu_milli=row.cpu_milli,
        memory_bytes=row.memory_bytes,
        disk_bytes=row.disk_bytes,
        pids=settings.container_pids,
        run_until_ms=to_ms(row.run_until),
        image=row.image_reference,
        container_name=row.container_name,
        home_volume=row.home_volume,
        labels={
            "remotegpu.host": host_uid,
            "remotegpu.allocation": str(row.uid),
            "remotegpu.generation": str(row.generation),
            "remotegpu.customer": str(row.customer_uid),
        },
    )
