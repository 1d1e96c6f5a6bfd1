"""What the loop works with of allocations that hold something: what to grant in Ray and on hosts, what to end there."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from api.allocations.groups import in_the_way
from api.clock import to_ms
from api.pipeline import pipelined
from api.settings import Settings
from scheduler.host_protocol import DeviceShare, Lease, LeaseKind
from scheduler.ports import Admitted, HostShare, Releasing

_PLACING = text(
    "select a.id, a.uid, a.generation, a.host_ids, a.cpu_milli, a.memory_bytes, a.disk_bytes, a.run_until,"
    " a.image_reference, a.container_name, a.home_volume, a.kind, a.shm_bytes, c.uid as customer_uid,"
    " g.name as group_name, g.state as group_state from allocations a join customers c on c.id = a.customer_id"
    " join placement_groups g on g.allocation_id = a.id and g.state <> 'removed'"
    " where a.id = any(:ids) and a.state = 'placing' order by a.id"
)
# A share may take several range rows.
_DEVICES = text(
    "select s.allocation_id, d.host_id, d.uuid, sum(s.milli_to - s.milli_from)::int"
    " from allocation_devices s join gpus d on d.id = s.gpu_id where s.allocation_id = any(:ids)"
    " and upper_inf(s.period) group by s.allocation_id, d.id order by s.allocation_id, d.index"
)
_HOSTS = text("select id, uid from hosts where id = any(:ids)")
_RELEASING = text(
    "select a.id, a.uid, a.generation, a.grace_s, a.end_reason,"
    " array_remove(array_agg(h.uid order by array_position(a.host_ids, h.id)), null)"
    " as host_uids from allocations a left join hosts h on h.id = any(a.host_ids) and h.device_status <> 'lost'"
    " where a.id = any(:ids) and a.state = 'releasing' group by a.id order by a.id"
)

Bundle = tuple[str, tuple[DeviceShare, ...]]  # a host's uid, and its devices


@dataclass(frozen=True, slots=True)
class Terms:
    """What the leases of an allocation have in common."""

    allocation_id: int
    allocation_uid: str
    generation: int
    customer_uid: str
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    pids: int
    run_until: datetime
    image: str
    container_name: str
    home_volume: str | None
    kind: LeaseKind
    shm_bytes: int | None


def admitted(terms: Terms, group_name: str, bundles: Sequence[Bundle], drop_groups: Collection[str] = ()) -> Admitted:
    """What is to be made of a placement, in Ray and on its hosts, in the order of their ranks."""
    return Admitted(
        allocation_id=terms.allocation_id,
        generation=terms.generation,
        group_name=group_name,
        shares=tuple(HostShare(uid, devices, terms.cpu_milli, terms.memory_bytes) for uid, devices in bundles),
        leases=tuple(_lease(terms, bundle, rank, len(bundles)) for rank, bundle in enumerate(bundles)),
        drop_groups=tuple(sorted(drop_groups)),
    )


def load_admitted(session: Session, allocation_ids: Sequence[int], *, settings: Settings) -> list[Admitted]:
    """Those in `placing`, by id."""
    rows = session.execute(_PLACING, {"ids": allocation_ids}).all()
    devices = _devices(session, allocation_ids)
    host_ids = sorted({host_id for row in rows for host_id in row.host_ids})
    host_uids = {host_id: str(uid) for host_id, uid in session.execute(_HOSTS, {"ids": host_ids}).all()}
    dropping = in_the_way(session, host_ids)
    found = []
    for row in rows:
        bundles = [(host_uids[host_id], devices.get((row.id, host_id), ())) for host_id in row.host_ids]
        drop = dropping.on(row.host_ids) if row.group_state == "intended" else ()
        found.append(admitted(_terms(row, settings), row.group_name, bundles, drop))
    return found


def load_releasing(session: Session, allocation_ids: Sequence[int], *, settings: Settings) -> list[Releasing]:
    """Those in `releasing`, by id."""
    with pipelined(session) as pipeline:
        rows = pipeline.ask(_RELEASING, {"ids": allocation_ids}).all()
    return [
        Releasing(
            allocation_id=row.id,
            allocation_uid=str(row.uid),
            generation=row.generation,
            host_uids=tuple(map(str, row.host_uids)),
            grace_s=settings.stop_grace_s if row.grace_s is None else row.grace_s,
            reason=row.end_reason,
        )
        for row in rows
    ]


def _devices(session: Session, allocation_ids: Sequence[int]) -> dict[tuple[int, int], tuple[DeviceShare, ...]]:
    """By allocation and host."""
    found: defaultdict[tuple[int, int], list[DeviceShare]] = defaultdict(list)
    for allocation_id, host_id, uuid, milli in session.execute(_DEVICES, {"ids": allocation_ids}).all():
        found[allocation_id, host_id].append(DeviceShare(uuid, milli))
    return {key: tuple(devices) for key, devices in found.items()}


def _terms(row: Row[Any], settings: Settings) -> Terms:
    return Terms(
        allocation_id=row.id,
        allocation_uid=str(row.uid),
        generation=row.generation,
        customer_uid=str(row.customer_uid),
        cpu_milli=row.cpu_milli,
        memory_bytes=row.memory_bytes,
        disk_bytes=row.disk_bytes,
        pids=settings.container_pids,
        run_until=row.run_until,
        image=row.image_reference,
        container_name=row.container_name,
        home_volume=row.home_volume,
        kind=lease_kind(row.kind),
        shm_bytes=row.shm_bytes,
    )


def lease_kind(kind: str) -> LeaseKind:
    """Of what asked for the allocation."""
    return LeaseKind.TASK if kind == LeaseKind.TASK else LeaseKind.ENVIRONMENT


def _lease(terms: Terms, bundle: Bundle, rank: int, nodes: int) -> Lease:
    host_uid, devices = bundle
    return Lease(
        allocation_uid=terms.allocation_uid,
        generation=terms.generation,
        customer_uid=terms.customer_uid,
        devices=devices,
        cpu_milli=terms.cpu_milli,
        memory_bytes=terms.memory_bytes,
        disk_bytes=terms.disk_bytes,
        pids=terms.pids,
        run_until_ms=to_ms(terms.run_until),
        image=terms.image,
        container_name=terms.container_name,
        home_volume=terms.home_volume,
        kind=terms.kind,
        shm_bytes=terms.shm_bytes,
        rank=rank,
        nodes=nodes,
        labels={
            "remotegpu.host": host_uid,
            "remotegpu.allocation": terms.allocation_uid,
            "remotegpu.generation": str(terms.generation),
            "remotegpu.customer": terms.customer_uid,
        },
    )
