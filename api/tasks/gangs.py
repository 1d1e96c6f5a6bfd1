"""Tasks over several hosts: where their nodes meet, and what the end of one means for all."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.machines.tables import Host
from api.settings import Settings
from api.tasks.tables import TaskAttempt
from scheduler.gang_network import GangNetwork, gang_network

MASTER_PORT = 29500  # where PyTorch's launcher looks by default
_ALONE = "127.0.0.1"


def network_of(session: Session, settings: Settings, allocation: Allocation) -> GangNetwork | None:
    """None for one that has a single node."""
    if len(allocation.host_ids) < 2:
        return None
    query = select(Host.id, Host.address).where(Host.id.in_(allocation.host_ids))
    addresses = {host_id: address or "" for host_id, address in session.execute(query)}
    return gang_network(
        str(allocation.uid),
        allocation.generation,
        tuple(addresses[host_id] for host_id in allocation.host_ids),
        address_range=settings.gang_network_range,
    )


def environment(gang: GangNetwork | None, rank: int) -> dict[str, str]:
    """What launchers of distributed programs ask for: one process of the task's on each node."""
    return {
        "RANK": str(rank),
        "NODE_RANK": str(rank),
        "WORLD_SIZE": str(len(gang.hosts) if gang is not None else 1),
        "MASTER_ADDR": gang.address(0) if gang is not None else _ALONE,
        "MASTER_PORT": str(MASTER_PORT),
    }


def succeeded_everywhere(attempt: TaskAttempt, rank: int, *, nodes: int) -> bool:
    """Note that this node's command has succeeded; whether all have."""
    if nodes == 1:
        return True
    if rank not in attempt.ranks_done:
        attempt.ranks_done = sorted([*attempt.ranks_done, rank])
    return len(attempt.ranks_done) == nodes
