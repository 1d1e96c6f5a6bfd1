"""What the nodes of a task are told of each other and of what they have: for launchers, and for a Ray of their own."""

from dataclasses import dataclass

from node.daemon.container_spec import shared_memory_bytes, whole_cpus
from node.daemon.gang_networks import node_name
from scheduler.host_protocol import AttemptOrder, Lease

RAY_PORT = 6379
MEETING_PORT = 6378
_STORE_PERCENT = 30  # of the memory: as Ray does, and shared memory counts as memory
_SHM_PERCENT = 90  # of /dev/shm, that something else may be in it


@dataclass(frozen=True, slots=True)
class RayNode:
    """This node's part of the task's Ray. No addresses: it is the only one, and finds its own."""

    rank: int
    nodes: int
    address: str | None
    head_address: str | None
    port: int
    meeting_port: int
    cpus: int
    gpus: int
    object_store_bytes: int


def ray_node(order: AttemptOrder, lease: Lease) -> RayNode | None:
    """None: the task has no Ray."""
    if not order.ray:
        return None
    shm_bytes = shared_memory_bytes(lease)
    return RayNode(
        rank=lease.rank,
        nodes=order.nodes,
        address=order.gang.address(lease.rank) if order.gang else None,
        head_address=order.gang.address(0) if order.gang else None,
        port=RAY_PORT,
        meeting_port=MEETING_PORT,
        cpus=whole_cpus(lease),
        gpus=len(lease.devices),
        object_store_bytes=min(lease.memory_bytes * _STORE_PERCENT, shm_bytes * _SHM_PERCENT) // 100,
    )


def hosts_file(order: AttemptOrder, lease: Lease) -> str:
    """A line for each node, as MPI's launchers read them: a process for each GPU, or one."""
    names = [node_name(rank) for rank in range(len(order.gang.hosts))] if order.gang else ["localhost"]
    return "".join(f"{name} slots={len(lease.devices) or 1}\n" for name in names)
