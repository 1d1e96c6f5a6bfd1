"""Environments over HTTP: what may be asked for, who sees what, and a life from creation to deletion."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.audit.tables import AuditEntry
from api.billing.journal import top_up
from api.db import Database
from api.images.tables import Image
from api.settings import Settings
from scheduler.states import EnvironmentState
from tests.db.conftest import Person, Tenant
from tests.db.environment_world import World
from tests.db.fleet import DOLLAR, Fleet

PATH = "/api/v1/customer/environments"
ASKED: dict[str, Any] = {"name": "lab", "image": "base", "gpus": 1, "gpu_model": "A100"}


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> World:
    fleet = Fleet(database)
    fleet.price()

    def work(session: Any) -> None:
        top_up(session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="start")
        session.add(Image(name="base", framework="f", version="1", reference="remotegpu/base:1", ports=[8888]))
        session.add(
            Image(name="old", framework="f", version="1", reference="remotegpu/old:1", ports=[8888], enabled=False)
        )

    database.transact(work)
    return World(fleet, settings, (tenant.customer, tenant.workspace, tenant.owner.user))


@pytest.fixture
def ask(app_client: TestClient) -> Callable[..., httpx.Response]:
    def call(person: Person, method: str = "POST", path: str = "", json: Any = None, **headers: str) -> httpx.Response:
        return app_client.request(method, PATH + path, json=json, headers={**person.headers, **headers})

    return call


Ask = Callable[..., httpx.Response]


def test_a_created_environment_waits_with_a_reason_then_shows_what_it_holds(
    world: World, tenant: Tenant, ask: Ask
) -> None:
    host = world.host()
    created = ask(tenant.owner, json=ASKED)
    assert created.status_code == 201, created.text
    body = created.json()
    assert (body["owner"], body["workspace"], body["image"]) == ("acme-owner", "default", "base")
    assert (body["desired"], body["observed"]) == ("running", "queued")
    assert body["wait"]["code"]
    assert body["url"] == "http://hub.testserver/user/acme-owner/lab/"
    # a quarter of a host with four GPUs: 32 cores, 256 GiB less the host's own tenth
    assert body["cpu_milli"] == 8000
    assert body["memory_bytes"] == int(256 * 2**30 * 0.9) // 4
    world.place()
    held = ask(tenant.owner, "GET", f"/{body['id']}").json()
    assert held["wait"] is None
    assert held["allocation"]["state"] == "active"
    assert held["allocation"]["host"] == host.name
    assert held["allocation"]["price_micro_per_gpu_hour"] == 2 * DOLLAR
    (device,) = held["allocation"]["devices"]
    assert (device["milli"], device["simulated"]) == (1000, False)
    (listed,) = ask(tenant.owner, "GET").json()["items"]
    assert listed == held


def test_the_options_of_the_queue_are_kept_and_a_start_may_change_them(world: World, tenant: Tenant, ask: Ask) -> None:
    world.host()
    options = {
        "gpu_milli": 500, "gpu_memory_bytes": 2**30, "selectors": ["!spot"], "apart": "web", "priority": 7,
        "preemptible": True, "min_runtime_s": 60, "time_limit_s": 3600,
    }  # fmt: skip
    created = ask(tenant.owner, json=ASKED | options)
    assert created.status_code == 201, created.text
    body = created.json()
    assert {key: body[key] for key in options} == options
    assert (body["gpu_model"], body["gpu_models"], body["reservation"]) == ("A100", ["A100"], None)
    assert body["cpu_milli"] == 4000  # half of what a whole GPU gets
    path = f"/{body['id']}"
    ask(tenant.owner, "POST", f"{path}/stop")
    again = ask(tenant.owner, "POST", f"{path}/start", json={"priority": 9, "time_limit_s": None})
    assert again.status_code == 200, again.text
    changed = options | {"priority": 9, "time_limit_s": None}
    assert {key: again.json()[key] for key in options} == changed
    queued = world.allocation(world.rows()[0])
    assert (queued.priority, queued.limit_s, queued.milli, queued.preemptible) == (9, None, 500, True)
    ask(tenant.owner, "POST", f"{path}/stop")
    refused = ask(tenant.owner, "POST", f"{path}/start", json={"priority": 501})
    assert (refused.status_code, refused.json()["code"]) == (422, "priority_too_high")
    assert ask(tenant.owner, "GET", path).json()["priority"] == 9
    unknown = ask(tenant.owner, "POST", f"{path}/start", json={"gpus": 2})
    assert unknown.status_code == 422


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"image": "nothing"}, 422, "unknown_image"),
        ({"image": "old"}, 422, "unknown_image"),
        ({"gpus": 0}, 422, "validation"),  # as it names a model
        ({"gpus": -1}, 422, "validation"),
        ({"gpus": 65}, 422, "validation"),
        ({"gpus": 1000}, 422, "validation"),
        ({"gpus": 5}, 422, "too_many_gpus"),
        ({"gpu_model": "B300"}, 422, "no_such_model"),
        ({"gpu_model": "A100'; drop table hosts"}, 422, "validation"),
        ({"name": "Lab"}, 422, "validation"),
        ({"name": "-lab"}, 422, "validation"),
        ({"name": "l" * 33}, 422, "validation"),
        ({"name": "lab\x00"}, 422, "validation"),
        ({"name": "lab\n"}, 422, "validation"),
        ({"cpu_milli": 2**70}, 422, "validation"),
        ({"memory_bytes": -1}, 422, "validation"),
        ({"workspace": "elsewhere"}, 422, "unknown_workspace"),
        ({"privileged": True}, 422, "validation"),
        ({"gpus": 2, "gpu_milli": 500}, 422, "validation"),
        ({"gpu_models": ["H100"]}, 422, "validation"),
        ({"selectors": ["zone in a"]}, 422, "validation"),
        ({"selectors": ["zone=b"]}, 422, "no_such_label"),
        ({"gpu_memory_bytes": 2**40}, 422, "too_little_gpu_memory"),
        ({"driver": "550"}, 422, "driver_too_old"),
        ({"cuda": "12.4"}, 422, "cuda_too_old"),
        ({"priority": 501}, 422, "priority_too_high"),
        ({"reservation": str(uuid4())}, 422, "unknown_reservation"),
        ({"capacity_group": "gold"}, 422, "unknown_capacity_group"),
    ],
)
def test_bad_requests_are_refused_with_a_code(
    world: World, tenant: Tenant, ask: Ask, change: dict[str, Any], status: int, code: str
) -> None:
    world.host()
    answer = ask(tenant.owner, json=ASKED | change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ask(tenant.owner, "GET").json()["items"] == []


def test_a_name_is_taken_among_its_owners_environments_only(world: World, tenant: Tenant, ask: Ask) -> None:
    world.host()
    assert ask(tenant.owner, json=ASKED).status_code == 201
    again = ask(tenant.owner, json=ASKED)
    assert (again.status_code, again.json()["code"]) == (409, "name_taken")
    assert ask(tenant.member, json=ASKED).status_code == 201


def test_a_repeated_creation_is_one(world: World, tenant: Tenant, ask: Ask) -> None:
    world.host()
    key = {"Idempotency-Key": "k1"}
    first = ask(tenant.owner, json=ASKED, **key)
    assert first.status_code == 201
    assert ask(tenant.owner, json=ASKED, **key).json() == first.json()
    other = ask(tenant.owner, json=ASKED | {"name": "other"}, **key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


def test_members_see_their_own_owners_all_and_strangers_nothing(
    world: World, tenant: Tenant, other_tenant: Tenant, ask: Ask
) -> None:
    world.host()
    owners = ask(tenant.owner, json=ASKED).json()["id"]
    members = ask(tenant.member, json=ASKED).json()["id"]
    assert [item["id"] for item in ask(tenant.owner, "GET").json()["items"]] == [members, owners]
    assert [item["id"] for item in ask(tenant.member, "GET").json()["items"]] == [members]
    assert ask(tenant.owner, "POST", f"/{members}/stop").status_code == 200
    for person, uid in ((tenant.member, owners), (other_tenant.owner, owners), (tenant.owner, uuid4())):
        for method, path in (("GET", ""), ("POST", "/start"), ("POST", "/stop"), ("DELETE", "")):
            assert ask(person, method, f"/{uid}{path}").status_code == 404
    assert ask(other_tenant.owner, "GET").json()["items"] == []


def test_stopping_what_waits_starting_again_and_deleting(
    world: World, tenant: Tenant, ask: Ask, database: Database
) -> None:
    world.host()
    uid = ask(tenant.owner, json=ASKED).json()["id"]
    stopped = ask(tenant.owner, "POST", f"/{uid}/stop").json()
    assert (stopped["desired"], stopped["observed"], stopped["allocation"]) == ("stopped", "stopped", None)
    assert ask(tenant.owner, "POST", f"/{uid}/stop").json() == stopped
    started = ask(tenant.owner, "POST", f"/{uid}/start").json()
    assert started["observed"] == "queued"
    assert ask(tenant.owner, "POST", f"/{uid}/start").json()["allocation"] == started["allocation"]
    world.place()
    world.ready(world.rows()[0])
    assert ask(tenant.owner, "POST", f"/{uid}/stop").json()["observed"] == "stopping"
    early = ask(tenant.owner, "POST", f"/{uid}/start")
    assert (early.status_code, early.json()["code"]) == (409, "environment_stopping")
    assert ask(tenant.owner, "DELETE", f"/{uid}").status_code == 204
    assert ask(tenant.owner, "POST", f"/{uid}/start").status_code == 404
    with database.session() as session:
        actions = session.scalars(select(AuditEntry.action).order_by(AuditEntry.id)).all()
    kept = [action for action in actions if action.startswith("environment.")]
    assert kept == [f"environment.{verb}" for verb in ("create", "stop", "start", "stop", "delete")]


def test_what_never_ran_is_deleted_at_once_and_its_name_free(world: World, tenant: Tenant, ask: Ask) -> None:
    world.host()
    uid = ask(tenant.owner, json=ASKED).json()["id"]
    assert ask(tenant.owner, "DELETE", f"/{uid}").status_code == 204
    assert world.rows()[0].observed == EnvironmentState.DELETED
    assert ask(tenant.owner, "GET", f"/{uid}").status_code == 404
    assert ask(tenant.owner, json=ASKED).status_code == 201


def test_the_version_rises_with_every_change_that_views_show(world: World, tenant: Tenant, ask: Ask) -> None:
    host = world.host()
    ask(tenant.owner, json=ASKED)
    versions = [world.rows()[0].version]

    def changed() -> bool:
        versions.append(world.rows()[0].version)
        return versions[-1] > versions[-2]

    world.place()
    assert changed()
    world.beat(host, world.allocation(world.rows()[0]))
    assert not changed()  # a renewal is no news
    world.ready(world.rows()[0])
    assert changed()
    world.stop(world.rows()[0])
    assert changed()
