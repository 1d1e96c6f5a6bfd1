"""Tasks go to where their volumes lie, and their hosts are told what to mount."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.billing.journal import top_up
from api.db import Database
from api.errors import ApiError
from api.machines.tables import Host
from api.settings import Settings
from api.tasks.orders import Over
from api.tasks.tables import Task
from api.volumes.tables import Volume
from scheduler.host_protocol import AttemptOrder, VolumeMount
from scheduler.states import TaskState
from tests.db.conftest import Tenant
from tests.db.fleet import DOLLAR
from tests.db.task_world import TaskWorld, document
from tests.db.test_plan_api import AnsweringPlanner

MOUNTS = [{"volume": "data", "path": "/data"}]
WHOLE_HOST = {"gpu_model": "A100", "gpus": 4}


@pytest.fixture
def world(database: Database, settings: Settings) -> TaskWorld:
    return mounting(TaskWorld.make(database, settings))


def mounting(world: TaskWorld) -> TaskWorld:
    """With the volume of `MOUNTS`."""
    customer, workspace, user = world.world.owner
    volume = Volume(
        customer_id=customer.id, workspace_id=workspace.id, user_id=user.id, name="data", size_bytes=2**30
    )  # fmt: skip
    world.database.transact(lambda session: session.add(volume))
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


def test_a_plan_counts_with_the_host_where_the_volume_lies(
    database: Database, settings: Settings, tenant: Tenant, app: FastAPI, app_client: TestClient
) -> None:
    owner = tenant.customer, tenant.workspace, tenant.owner.user
    database.transact(
        lambda session: top_up(session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="k")
    )
    world = mounting(TaskWorld.make(database, settings, owner=owner))
    app.state.planner = planner = AnsweringPlanner()

    def plan(**fields: Any) -> Any:
        tasks = [{"task": document("with", mounts=MOUNTS, **fields)}, {"task": document("without")}]
        answer = app_client.post("/api/v1/customer/tasks/plan", json={"tasks": tasks}, headers=tenant.member.headers)
        assert answer.status_code == 200, answer.text
        return [planned["plan"] for planned in answer.json()["tasks"]]

    plan()
    assert [each.request.demand.bound_host_id for each in planner.asked] == [None, None]
    world.start(world.one(mounts=MOUNTS))
    world.world.host("h2", gpus=8)
    plan()
    assert [each.request.demand.bound_host_id for each in planner.asked[2:]] == [world.host.id, None]
    larger, _ = plan(resources={"gpu_model": "A100", "gpus": 8})
    assert (larger["when"], larger["wait"]["code"]) == ("never", "too_many_gpus")


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
