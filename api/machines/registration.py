"""What a host registers when its daemon starts: facts found on the machine, never typed."""

from dataclasses import asdict

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from api.allocations.devices import holding_on
from api.allocations.service import request_end
from api.allocations.tables import Allocation, AllocationDevice
from api.clock import utc_now
from api.errors import Conflict
from api.machines.status import judge
from api.machines.tables import Gpu, Host, HostEvent
from api.machines.transitions import observe
from api.settings import Settings
from scheduler.host_protocol import GpuFacts, HostFacts
from scheduler.states import AllocationState, EndReason

MILLI_PER_CPU = 1000
_LIVE = (AllocationState.PLACING, AllocationState.ACTIVE)


def register(session: Session, settings: Settings, *, host_id: int, facts: HostFacts) -> None:
    """Write a host's facts and devices. A new boot ends what the boot before ran, since none of it runs any more.

    Raises:
        Conflict: `gpu_elsewhere`, one of its devices is present on another host.
    """
    query = select(Allocation).where(holding_on(host_id), Allocation.state.in_(_LIVE))
    leases = list(session.scalars(query.order_by(Allocation.id).with_for_update()))
    host = session.get_one(Host, host_id, with_for_update=True)
    actor = f"host:{host.uid}"
    if host.boot_id is not None and host.boot_id != facts.boot_id:
        session.add(HostEvent(host_id=host.id, actor=actor, kind="rebooted", reason=f"boot {facts.boot_id}"))
        for lease in leases:
            reason = f"host {host.name} was started again"
            request_end(session, lease, end_reason=EndReason.HOST_LOST, actor=actor, reason=reason)
    _write_facts(host, facts)
    _write_gpus(session, host, facts)
    host.heartbeat_at = now = utc_now()
    judgement = judge(
        heartbeat_at=now,
        now=now,
        unreachable_after_s=settings.unreachable_after_s,
        in_ray=host.ray_node_id is not None,
        problems=host.problems,
    )
    observe(session, host, judgement.status, actor=actor, reason=judgement.reason)
    session.add(HostEvent(host_id=host.id, actor=actor, kind="registered", reason=f"{len(facts.gpus)} GPUs"))


def _write_facts(host: Host, facts: HostFacts) -> None:
    host.boot_id = facts.boot_id
    host.simulated = facts.simulated
    host.cpu_milli = facts.cpu_count * MILLI_PER_CPU
    host.memory_bytes = facts.memory_bytes
    host.disk_bytes = facts.disk_bytes
    host.address = facts.address
    host.facts = {key: value for key, value in asdict(facts).items() if key != "gpus"}
    host.problems = []


def _write_gpus(session: Session, host: Host, facts: HostFacts) -> None:
    uuids = [gpu.uuid for gpu in facts.gpus]
    query = select(Gpu).where((Gpu.host_id == host.id) | Gpu.uuid.in_(uuids)).order_by(Gpu.id).with_for_update()
    known = {gpu.uuid: gpu for gpu in session.scalars(query)}
    for found in facts.gpus:
        gpu = known.pop(found.uuid, None)
        if gpu is None:
            gpu = Gpu(uuid=found.uuid)
            session.add(gpu)
        else:
            if gpu.host_id != host.id:
                _check_moved(session, gpu)
            _note_change(session, gpu, found, simulated=facts.simulated)
        _write_gpu(gpu, host, found, simulated=facts.simulated)
    for gpu in known.values():  # it was here and has vanished; what it owes its lease stays on record
        gpu.present = False
        gpu.reading = None


def _check_moved(session: Session, gpu: Gpu) -> None:
    """A device may change its host (moved by hand), but not while the other one has it or a lease still owns it."""
    query = select(AllocationDevice.gpu_id).where(
        AllocationDevice.gpu_id == gpu.id, func.upper_inf(AllocationDevice.period)
    )
    if gpu.present or session.scalar(query.limit(1)) is not None:
        raise Conflict(f"GPU {gpu.uuid} belongs to another host.", code="gpu_elsewhere")


def _note_change(session: Session, gpu: Gpu, found: GpuFacts, *, simulated: bool) -> None:
    """Write the rows of all allocations that show the device anew, as they are, where it will be shown differently.

    `allocations.repository.LIST` takes a row that was not written since for one whose JSON is what it was.
    """
    if (gpu.index, gpu.model, gpu.simulated) == (found.index, found.model, simulated):
        return
    shown_in = select(AllocationDevice.allocation_id).where(AllocationDevice.gpu_id == gpu.id)
    unchanged = update(Allocation).where(Allocation.id.in_(shown_in)).values(generation=Allocation.generation)
    session.execute(unchanged.execution_options(synchronize_session=False))


def _write_gpu(gpu: Gpu, host: Host, found: GpuFacts, *, simulated: bool) -> None:
    gpu.host_id = host.id
    gpu.index = found.index
    gpu.model = found.model
    gpu.memory_bytes = found.memory_bytes
    gpu.pci_bus_id = found.pci_bus_id
    gpu.nvlink_peer_uuids = list(found.nvlink_peer_uuids)
    gpu.mig_enabled = found.mig_enabled
    gpu.simulated = simulated
    gpu.present = True
    gpu.healthy = True
