"""Machines as administrators read and change them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from api.allocations.devices import holding_on
from api.allocations.tables import Allocation
from api.audit import service as audit
from api.environments.repository import held_devices
from api.errors import Conflict, NotFound
from api.machines.schemas import GpuOut, LeaseOut, MachineOut, MachinePatch
from api.machines.tables import Gpu, Host
from api.machines.transitions import administer
from api.principal import Principal
from api.tenants.tables import Customer
from scheduler.states import (
    ADMIN_STATE,
    AdminState,
    AllocationState,
    AllocationStatus,
    DeviceStatus,
    TransitionError,
    check_transition,
)


def machines(
    *, device_status: DeviceStatus | None, admin_state: AdminState | None, gpu_model: str | None
) -> Select[Host]:
    query = select(Host)
    if device_status is not None:
        query = query.where(Host.device_status == device_status)
    if admin_state is not None:
        query = query.where(Host.admin_state == admin_state)
    if gpu_model is not None:
        has_model = select(Gpu.id).where(
            Gpu.host_id == Host.id, Gpu.present, Gpu.model.icontains(gpu_model, autoescape=True)
        )
        query = query.where(has_model.exists())
    return query


def find(session: Session, uid: UUID, *, lock: bool = False) -> Host:
    """Raises NotFound."""
    query = select(Host).where(Host.uid == uid)
    host = session.scalar(query.with_for_update() if lock else query)
    if host is None:
        raise NotFound("There is no such machine.")
    return host


def change(session: Session, principal: Principal, uid: UUID, wanted: MachinePatch) -> None:
    """Apply a patch.

    Raises:
        NotFound
        Conflict: `not_a_transition`, or `host_in_use`: it can't be retired while it has leases.
    """
    host = find(session, uid, lock=True)
    details = wanted.model_dump(exclude_none=True)
    if wanted.labels is not None:
        host.labels = dict(wanted.labels)
    if wanted.admin_state is not None and wanted.admin_state != host.admin_state:
        _check_admin_state(session, host, wanted.admin_state)
        administer(session, host, wanted.admin_state, actor=principal.actor)
    audit.record(
        session,
        actor=principal.actor,
        action="machine.change",
        target=f"host:{host.uid}",
        address=principal.address,
        details=details,
    )


def _check_admin_state(session: Session, host: Host, target: AdminState) -> None:
    try:
        check_transition(ADMIN_STATE, current=AdminState(host.admin_state), target=target)
    except TransitionError as error:
        raise Conflict(f"A machine can't go from {host.admin_state} to {target}.", code="not_a_transition") from error
    in_use = select(Allocation.id).where(holding_on(host.id)).limit(1)
    if target is AdminState.RETIRED and session.scalar(in_use) is not None:
        raise Conflict("It still has leases: drain it first.", code="host_in_use")


def views(session: Session, hosts: Sequence[Host]) -> list[MachineOut]:
    """The machines with their devices and leases: a fixed number of queries for any number."""
    ids = [host.id for host in hosts]
    gpus: dict[int, list[Gpu]] = {host_id: [] for host_id in ids}
    for gpu in session.scalars(select(Gpu).where(Gpu.host_id.in_(ids)).order_by(Gpu.host_id, Gpu.index)):
        gpus[gpu.host_id].append(gpu)
    leases = _leases(session, gpus)
    return [_view(host, gpus[host.id], leases[host.id]) for host in hosts]


def _leases(session: Session, gpus: Mapping[int, Sequence[Gpu]]) -> dict[int, list[LeaseOut]]:
    """By host, of those that `gpus` has: on each its own devices of an allocation that may hold others elsewhere."""
    query = (
        select(Allocation, Customer.name)
        .join(Customer, Customer.id == Allocation.customer_id)
        .where(Allocation.host_ids.overlap(list(gpus)), Allocation.holds())
        .order_by(Allocation.id)
    )
    rows = session.execute(query).all()
    devices = held_devices(session, [allocation.id for allocation, _ in rows])
    leases: dict[int, list[LeaseOut]] = defaultdict(list)
    for allocation, customer in rows:
        for host_id in gpus.keys() & set(allocation.host_ids):
            here = {gpu.uuid for gpu in gpus[host_id]}
            lease = LeaseOut(
                allocation_id=allocation.uid,
                customer=customer,
                state=AllocationState(allocation.state),
                generation=allocation.generation,
                gpus=allocation.gpus,
                gpu_uuids=[device.uuid for device in devices.get(allocation.id, ()) if device.uuid in here],
                run_until=allocation.run_until,
            )
            leases[host_id].append(lease)
    return leases


def _view(host: Host, gpus: Sequence[Gpu], leases: Sequence[LeaseOut]) -> MachineOut:
    return MachineOut(
        id=host.uid,
        name=host.name,
        device_status=DeviceStatus(host.device_status),
        admin_state=AdminState(host.admin_state),
        allocation_status=allocation_status(
            present={gpu.uuid for gpu in gpus if gpu.present},
            leased={uuid for lease in leases for uuid in lease.gpu_uuids},
            leases=len(leases),
        ),
        simulated=host.simulated,
        address=host.address,
        cpu_milli=host.cpu_milli,
        memory_bytes=host.memory_bytes,
        disk_bytes=host.disk_bytes,
        labels=host.labels,
        facts=host.facts,
        problems=host.problems,
        heartbeat_at=host.heartbeat_at,
        gpus=[_gpu(gpu) for gpu in gpus],
        leases=list(leases),
        created_at=host.created_at,
    )


def allocation_status(*, present: set[str], leased: set[str], leases: int) -> AllocationStatus:
    """How much of a host is given out, by the UUIDs of its devices. Leases may have none."""
    if not leases:
        return AllocationStatus.IDLE
    return AllocationStatus.FULL if leased and present <= leased else AllocationStatus.PARTIAL


def _gpu(gpu: Gpu) -> GpuOut:
    return GpuOut(
        id=gpu.uid,
        index=gpu.index,
        uuid=gpu.uuid,
        model=gpu.model,
        memory_bytes=gpu.memory_bytes,
        pci_bus_id=gpu.pci_bus_id,
        nvlink_peer_uuids=gpu.nvlink_peer_uuids,
        mig_enabled=gpu.mig_enabled,
        simulated=gpu.simulated,
        present=gpu.present,
        healthy=gpu.healthy,
        reading=gpu.reading,
        reading_at=gpu.reading_at,
    )
