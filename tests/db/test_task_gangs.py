"""A task over two hosts: each is told where the nodes meet, and the end of one means something for all."""

from typing import Any

import pytest

from api.allocations.tables import Allocation
from api.db import Database
from api.machines.tables import Host
from api.settings import Settings
from api.tasks.tables import Task
from scheduler.host_protocol import AttemptOrder, AttemptPhase
from scheduler.states import AttemptEnd, EndReason, TaskState
from tests.db.task_world import TaskWorld, document

ADDRESSES = ("192.0.2.11", "192.0.2.12")


@pytest.fixture
def world(database: Database, settings: Settings) -> TaskWorld:
    world = TaskWorld.make(database, settings)
    world.world.host("h2")
    return world


@pytest.fixture
def gang(world: TaskWorld) -> tuple[Task, Allocation, list[Host]]:
    """A task that has started on both hosts, in the order of its ranks."""
    (task,) = world.submit(document(nodes=2, retry={"max": 0}))
    world.place()
    allocation = world.allocation(task)

    def addressed(session: Any) -> list[Host]:
        hosts = [session.get_one(Host, host_id) for host_id in allocation.host_ids]
        for host, address in zip(hosts, ADDRESSES, strict=True):
            host.address = address
        return hosts

    hosts = world.database.transact(addressed)
    orders = [world.order(allocation, host=host) for host in hosts]
    assert all(isinstance(order, AttemptOrder) for order in orders)
    first, second = orders
    assert first.gang == second.gang and first.gang.hosts == ADDRESSES
    assert first.attempt_uid == second.attempt_uid
    for rank, order in enumerate(orders):
        told = {name: order.environment[name] for name in ("RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR")}
        assert told == {
            "RANK": str(rank), "NODE_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": first.gang.address(0),
        }  # fmt: skip
    return task, allocation, hosts


def test_it_succeeds_when_every_node_has(world: TaskWorld, gang: tuple[Task, Allocation, list[Host]]) -> None:
    task, allocation, (first, second) = gang
    world.report(allocation, AttemptPhase.RUNNING, host=second)
    assert world.state(task) is TaskState.STARTING, "the first node's word is the task's"
    world.report(allocation, AttemptPhase.RUNNING, host=first)
    assert world.state(task) is TaskState.RUNNING
    for _ in range(2):  # told again in every heartbeat
        world.report(allocation, end="exited", exit_code=0, host=first)
        assert world.state(task) is TaskState.RUNNING
    world.report(allocation, end="exited", exit_code=0, host=second)
    assert world.state(task) is TaskState.STOPPING
    world.finish()
    assert (world.state(task), world.task(task).detail) == (TaskState.SUCCEEDED, "")


@pytest.mark.parametrize("rank", [0, 1])
def test_one_failing_fails_all_at_once(world: TaskWorld, gang: tuple[Task, Allocation, list[Host]], rank: int) -> None:
    task, allocation, hosts = gang
    for host in hosts:
        world.report(allocation, AttemptPhase.RUNNING, host=host)
    world.report(allocation, end="exited", exit_code=3, host=hosts[rank])
    assert world.allocation(task).end_reason == EndReason.FAILED
    world.report(allocation, end="exited", exit_code=None, signal=15, host=hosts[1 - rank])  # told to end since
    world.finish()
    done = world.task(task)
    assert (done.state, done.exit_code) == (TaskState.FAILED, 3)
    assert done.detail == f"On node {rank}: It ended with exit code 3."
    assert world.attempts(task)[0].end == AttemptEnd.EXITED


def test_a_host_that_is_none_of_its_own_says_nothing(
    world: TaskWorld, gang: tuple[Task, Allocation, list[Host]]
) -> None:
    task, allocation, _ = gang
    world.report(allocation, end="exited", exit_code=1, host=world.world.host("h3"))
    assert world.state(task) is TaskState.STARTING


def test_its_ray_has_one_token_that_is_the_attempts(world: TaskWorld) -> None:
    (task,) = world.submit(document(nodes=2, ray=True, retry={"max": 0}))
    (again,) = world.submit(document(name="again", nodes=2, ray=True))
    world.place()
    allocation = world.allocation(task)
    hosts = world.database.transact(lambda session: [session.get_one(Host, each) for each in allocation.host_ids])
    orders = [world.order(allocation, host=host) for host in [*hosts, hosts[0]]]
    tokens = {order.secrets["RAY_AUTH_TOKEN"] for order in orders}
    assert all(order.ray for order in orders) and len(tokens) == 1 and len(tokens.pop()) == 64
    other = world.order(world.allocation(again), host=hosts[0])
    assert other.secrets["RAY_AUTH_TOKEN"] != orders[0].secrets["RAY_AUTH_TOKEN"]
