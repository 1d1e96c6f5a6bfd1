"""What a task's nodes are told of each other, and what a Ray of their own is given."""

from dataclasses import replace

import pytest

from node.daemon.task_nodes import hosts_file, ray_node
from scheduler.gang_network import GangNetwork
from scheduler.host_protocol import AttemptOrder, DeviceShare, Lease, LeaseKind

GIB = 2**30
LEASE = Lease(
    "a", 1, "c", devices=(DeviceShare("GPU-1", 1000), DeviceShare("GPU-2", 1000)), cpu_milli=7500,
    memory_bytes=10 * GIB, disk_bytes=GIB, pids=100, run_until_ms=0, image="i", container_name="n",
    kind=LeaseKind.TASK, rank=1, nodes=2,
)  # fmt: skip
ORDER = AttemptOrder(
    "t", "a", number=1, command="true", setup=None, environment={}, secrets={}, archives=(), mounts=(), timeout_s=None,
    signal="SIGTERM", grace_s=30, nodes=2, gang=GangNetwork(7, "10.208.1.0/24", ("192.0.2.1", "192.0.2.2")), ray=True,
)  # fmt: skip


def test_a_node_of_a_gang_knows_the_first() -> None:
    node = ray_node(ORDER, LEASE)
    assert node is not None
    assert (node.rank, node.nodes, node.address, node.head_address) == (1, 2, "10.208.1.2", "10.208.1.1")
    assert (node.cpus, node.gpus, node.object_store_bytes) == (7, 2, 3 * GIB)


@pytest.mark.parametrize(
    ("shm_bytes", "store_bytes"), [(None, 3 * GIB), (GIB, GIB * 9 // 10), (8 * GIB, 3 * GIB), (0, 0)]
)
def test_the_object_store_fits_into_memory_and_shm(shm_bytes: int | None, store_bytes: int) -> None:
    node = ray_node(ORDER, replace(LEASE, shm_bytes=shm_bytes))
    assert node is not None and node.object_store_bytes == store_bytes


def test_alone_it_finds_its_own_address() -> None:
    alone = replace(ORDER, nodes=1, gang=None)
    node = ray_node(alone, replace(LEASE, rank=0, nodes=1, cpu_milli=500))
    assert node is not None and (node.address, node.head_address, node.cpus) == (None, None, 1)
    assert ray_node(replace(alone, ray=False), LEASE) is None


def test_the_hosts_file_has_a_slot_for_each_gpu() -> None:
    assert hosts_file(ORDER, LEASE) == "node-0 slots=2\nnode-1 slots=2\n"
    assert hosts_file(replace(ORDER, nodes=1, gang=None), replace(LEASE, devices=())) == "localhost slots=1\n"
