"""Tasks go to where their volumes lie, and their hosts are told what to mount."""

import pytest
from sqlalchemy import select

from api.db import Database
from api.errors import ApiError
from api.machines.tables import Host
from api.settings import Settings
from api.tasks.orders import Over
from api.tasks.tables import Task
from api.volumes.tables import Volume
from scheduler.host_protocol import AttemptOrder, VolumeMount
from scheduler.states import TaskState
from tests.db.task_world import TaskWorld, document

MOUNTS = [{"volume": "data", "path": "/data"}]
WHOLE_HOST = {"gpu_model": "A100", "gpus": 4}


@pytest.fixture
def world(database: Database, settings: Settings) -> TaskWorld:
    world = TaskWorld.make(database, settings)
    customer, workspace, user = world.world.owner
    volume = Volume(
        customer_id=customer.id, workspace_id=workspace.id, user_id=user.id, name="data", size_bytes=2**30
    )  # fmt: skip
    database.transact(lambda session: session.add(volume))
    return world


def volume(world: TaskWorld) -> Volume:
    with world.database.session() as session:
        return session.scalars(select(Volume)).one()


def start(world: TaskWorld, task: Task) -> AttemptOrder | Over:
    """Its host, whichever that is, asks what to run."""
    allocation = world.allocation(task)
    with world.database.session() as session:
        host = session.get_one(Host, allocation.host_id)
    answer: AttemptOrder | Over = world.order(allocation, host=host)
    return answer


def test_a_volume_that_is_not_there_is_refused_at_once(world: TaskWorld) -> None:
    for fields, code in (
        ({"mounts": [{"volume": "other", "path": "/x"}]}, "unknown_volume"),
        ({"mounts": [{"volume": "other", "path": "/x"}], "depends_on": ["first"]}, "unknown_volume"),
    ):
        with pytest.raises(ApiError) as refused:
            world.submit(document("first"), document("t", **fields))
        assert refused.value.code == code


def test_the_first_task_binds_the_volume_and_the_next_ones_follow(world: TaskWorld) -> None:
    first = world.one("first", mounts=MOUNTS)
    world.place()
    told = start(world, first)
    assert isinstance(told, AttemptOrder)
    assert told.mounts == (VolumeMount(f"rg-vol-{volume(world).uid}", "/data", 2**30),)
    assert volume(world).host_id == world.host.id
    world.world.host("h2")
    assert world.allocation(world.one("next", mounts=MOUNTS)).bound_host_id == world.host.id
    assert world.allocation(world.one("without")).bound_host_id is None


def test_one_that_was_placed_elsewhere_meanwhile_is_queued_again(world: TaskWorld) -> None:
    """Both are placed before either has started: the second must not start with an empty volume of the same name."""
    world.world.host("h2")
    first, second = (world.one(name, mounts=MOUNTS, resources=WHOLE_HOST) for name in ("first", "second"))
    world.place()
    before = world.allocation(second)
    assert {world.allocation(first).host_id, before.host_id} > {world.host.id}, "on two hosts"
    assert isinstance(start(world, first), AttemptOrder)
    refused = start(world, second)
    assert isinstance(refused, Over) and "lies on another host" in refused.detail
    world.finish()
    assert world.state(second) is TaskState.QUEUED
    assert world.attempts(second) == []
    again = world.allocation(second)
    assert (again.id != before.id, again.bound_host_id) == (True, volume(world).host_id)
