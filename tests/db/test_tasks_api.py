"""Tasks over HTTP: what may be asked for, who sees what, and what of it is billed."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.audit.tables import AuditEntry
from api.billing.journal import top_up
from api.clock import to_ms
from api.db import Database
from api.metering.service import ingest
from api.settings import Settings
from api.tasks.tables import Task
from scheduler.host_protocol import AttemptPhase, ElementStart, UsageBatch, UsageWindow
from scheduler.plan_protocol import PlanAnswer, When
from scheduler.states import TaskState
from tests.db.conftest import Person, Tenant
from tests.db.environment_world import BOOT
from tests.db.fleet import DOLLAR
from tests.db.task_world import TaskWorld, document
from tests.db.test_plan_api import AnsweringPlanner
from tests.db.test_task_arrays import ArrayWorld, result

PATH = "/api/v1/customer/tasks"
Ask = Callable[..., httpx.Response]


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> TaskWorld:
    """The tenant's member submits."""
    owner = (tenant.customer, tenant.workspace, tenant.member.user)
    database.transact(
        lambda session: top_up(session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="k")
    )
    return TaskWorld.make(database, settings, owner=owner)


@pytest.fixture
def ask(app_client: TestClient) -> Ask:
    def ask(person: Person, method: str, path: str = "", body: Any = None, **options: Any) -> httpx.Response:
        headers = {**person.headers, **options.pop("headers", {})}
        answer: Any = app_client.request(method, PATH + path, json=body, headers=headers, **options)
        return answer  # the test client's own class of response

    return ask


def submission(*documents: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tasks": [{"task": each, **more} for each in documents]}


def test_a_task_is_submitted_seen_and_cancelled(world: TaskWorld, tenant: Tenant, ask: Ask) -> None:
    made = ask(tenant.member, "POST", body=submission(document(resources={"gpus": 2, "gpu_model": ["A100"]})))
    assert made.status_code == 201, made.text
    (task,) = made.json()["tasks"]
    assert (task["state"], task["gpus"], task["owner"], task["workspace"]) == ("queued", 2, "acme-member", "default")
    assert task["wait"]["code"] == "queued"
    shown = ask(tenant.member, "GET", f"/{task['id']}").json()
    assert shown["spec"]["resources"] == {"gpus": 2, "gpu_model": ["A100"]}, "as it was given"
    assert [event["to_state"] for event in shown["events"]] == ["queued"]
    ended = ask(tenant.member, "POST", f"/{task['id']}/cancel")
    assert (ended.status_code, ended.json()["state"]) == (200, "cancelled")
    again = ask(tenant.member, "POST", f"/{task['id']}/retry")
    assert (again.status_code, again.json()["retried_from"]) == (201, task["id"])
    assert ask(tenant.member, "POST", f"/{again.json()['id']}/retry").json()["code"] == "not_ended"
    with world.database.session() as session:
        actions = session.scalars(select(AuditEntry.action).order_by(AuditEntry.id)).all()
    assert [action for action in actions if action.startswith("task.")] == ["task.submit", "task.cancel", "task.submit"]


def test_attempts_are_shown_with_their_host_and_devices(world: TaskWorld, tenant: Tenant, ask: Ask) -> None:
    task = world.one()
    allocation = world.run(task)
    shown = ask(tenant.member, "GET", f"/{task.uid}").json()
    (attempt,) = shown["attempt_list"]
    assert (shown["host"], attempt["host"], attempt["state"]) == ("h1", "h1", "running")
    assert [device["uuid"] for device in attempt["devices"]] == ["GPU-h1-0"]
    world.end(allocation, exit_code=4)
    (attempt,) = ask(tenant.member, "GET", f"/{task.uid}").json()["attempt_list"]
    assert (attempt["end"], attempt["exit_code"], len(attempt["devices"])) == ("exited", 4, 1)


def test_members_see_their_own_owners_all_and_others_none(
    world: TaskWorld, tenant: Tenant, other_tenant: Tenant, ask: Ask
) -> None:
    task = world.one()
    (owners,) = ask(tenant.owner, "POST", body=submission(document("mine"))).json()["tasks"]

    def seen(person: Person) -> list[str]:
        return [each["name"] for each in ask(person, "GET").json()["items"]]

    assert (seen(tenant.owner), seen(tenant.member), seen(other_tenant.owner)) == (["mine", "train"], ["train"], [])
    for person, uid in ((other_tenant.owner, task.uid), (tenant.member, owners["id"])):
        for method, path in (("GET", f"/{uid}"), ("POST", f"/{uid}/cancel"), ("POST", f"/{uid}/retry")):
            assert ask(person, method, path).status_code == 404
    assert world.state(task) is TaskState.QUEUED


def test_lists_are_filtered_and_paged(world: TaskWorld, tenant: Tenant, ask: Ask) -> None:
    for name in ("a", "b", "b"):
        world.one(name)
    world.cancel(world.one("c"))

    def names(**params: Any) -> list[str]:
        return [each["name"] for each in ask(tenant.member, "GET", params=params).json()["items"]]

    assert names(state="cancelled") == ["c"]
    assert names(name="b") == ["b", "b"]
    assert (names(workspace="default", limit=1), names(workspace="other")) == (["c"], [])
    page = ask(tenant.member, "GET", params={"limit": 3}).json()
    following = ask(tenant.member, "GET", params={"cursor": page["next_cursor"]}).json()
    assert ([each["name"] for each in following["items"]], following["next_cursor"]) == (["a"], None)


def test_submitting_twice_with_one_key_submits_once(world: TaskWorld, tenant: Tenant, ask: Ask) -> None:
    headers = {"Idempotency-Key": "one"}
    replies = [ask(tenant.member, "POST", body=submission(document()), headers=headers) for _ in range(2)]
    assert replies[0].json() == replies[1].json()
    assert len(world.fleet.rows(Task)) == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (submission(document(commnd="x")), "validation"),
        ({"tasks": []}, "validation"),
        (submission(document(), working_dir="abc"), "validation"),
        (submission(document(), working_dir="a" * 64), "unknown_upload"),
        (submission(document("a", depends_on=["b"]), document("b", depends_on=["a"])), "dependency_cycle"),
        ({**submission(document()), "workspace": "nowhere"}, "unknown_workspace"),
        (submission(document(resources={"gpu_model": "T4"})), "no_such_model"),
        (submission(document(resources={"gpu_model": "A100", "shm": "1TB"})), "shm_too_large"),
    ],
)
def test_what_is_wrong_is_said(world: TaskWorld, tenant: Tenant, ask: Ask, body: dict[str, Any], code: str) -> None:
    answer = ask(tenant.member, "POST", body=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert world.fleet.rows(Task) == []


def test_an_unknown_key_is_refused_with_the_known_one(world: TaskWorld, tenant: Tenant, ask: Ask) -> None:
    answer = ask(tenant.member, "POST", body=submission(document(comand="x")))
    assert "did you mean command?" in answer.json()["detail"]


def test_a_submission_id_is_taken_once(world: TaskWorld, tenant: Tenant, other_tenant: Tenant, ask: Ask) -> None:
    body = submission(document(), submission_id="job-1")
    assert ask(tenant.member, "POST", body=body).status_code == 201
    refused = ask(tenant.owner, "POST", body=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "submission_exists")
    assert ask(other_tenant.owner, "POST", body=body).json().get("code") != "submission_exists"


def test_a_plan_says_when_and_at_most_how_much(world: TaskWorld, tenant: Tenant, ask: Ask, app: FastAPI) -> None:
    app.state.planner = planner = AnsweringPlanner(PlanAnswer(When.NOW))
    body = submission(document("a", timeout="30m", disconnect="90s"), document("b", depends_on=["a"]))
    planned = ask(tenant.member, "POST", "/plan", body=body)
    assert planned.status_code == 200, planned.text
    first, second = planned.json()["tasks"]
    assert (first["ceiling_micro"], first["currency"], first["plan"]["when"]) == (DOLLAR, "USD", "now")
    assert (second["ceiling_micro"], second["depends_on"]) == (None, ["a"])
    assert (planner.asked[0].request.hold_s, planner.asked[0].request.limit_s) == (90, None)
    assert world.fleet.rows(Task) == []
    refused = ask(tenant.member, "POST", "/plan", body=submission(document(depends_on=["nowhere"])))
    assert refused.json()["code"] == "unknown_dependency"


def test_administrators_see_and_cancel_all(
    world: TaskWorld, tenant: Tenant, admin: Person, app_client: TestClient
) -> None:
    task = world.one()
    admins = "/api/v1/admin/tasks"
    (shown,) = app_client.get(admins, headers=admin.headers).json()["items"]
    assert (shown["id"], shown["customer"]) == (str(task.uid), "acme")
    for params in ({"customer": str(uuid4())}, {"state": "running"}):
        assert app_client.get(admins, params=params, headers=admin.headers).json()["items"] == []
    ended = app_client.post(f"{admins}/{task.uid}/cancel", headers=admin.headers).json()
    assert (ended["state"], ended["detail"]) == ("cancelled", "It was cancelled by an administrator.")
    assert app_client.post(f"{admins}/{uuid4()}/cancel", headers=admin.headers).status_code == 404


def test_a_disabled_users_tasks_end_and_do_not_come_back(
    world: TaskWorld, tenant: Tenant, admin: Person, app_client: TestClient
) -> None:
    runs, waits, blocked, failed = world.submit(
        document("runs", retry={"on": ["host_lost"]}),
        document("waits", resources={"gpus": 4}),
        document("blocked", depends_on=["waits"]),
        document("failed", retry={"on": ["error"]}),
    )
    world.place()
    for task in (runs, failed):
        world.order(world.allocation(task))
    world.report(world.allocation(runs), AttemptPhase.RUNNING)
    world.end(world.allocation(failed), exit_code=1)
    app_client.post(f"/api/v1/admin/users/{tenant.member.user.uid}/disable", headers=admin.headers).raise_for_status()
    world.finish()
    assert {world.state(task) for task in (runs, waits, blocked, failed)} == {TaskState.CANCELLED}
    assert "its user was disabled" in world.task(blocked).detail


def test_usage_is_billed_with_its_task(world: TaskWorld, tenant: Tenant, app_client: TestClient) -> None:
    task = world.one()
    allocation = world.run(task)
    assert allocation.placed_at is not None
    started = to_ms(allocation.placed_at) + 1
    window = UsageWindow(BOOT, 1, str(allocation.uid), 1, "c1", "GPU-h1-0", 1000, started, started + 1000)
    ingest(world.database, world.host.id, UsageBatch((window,)))
    world.end(allocation)
    billing = "/api/v1/customer/billing"
    (line,) = app_client.get(f"{billing}/statement", headers=tenant.member.headers).json()["lines"]
    assert (line["task_id"], line["task"], line["environment"]) == (str(task.uid), "train", None)
    assert (line["duration_ms"], line["amount_micro"]) == (1000, round(2 * DOLLAR / 3600))
    (usage,) = app_client.get(f"{billing}/usage", headers=tenant.member.headers).json()["items"]
    assert usage["task_id"] == str(task.uid)


def test_an_array_shows_its_elements_and_nobody_sees_its_workers(
    world: TaskWorld, app_client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    array = ArrayWorld(world.world, world.host)
    task = array.one(array="0-4%1")
    (worker,) = array.workers(task)
    array.exchange(worker, take=3)
    array.exchange(worker, have=3, results=(result(0), result(1, code=1)), started=(ElementStart(2, 5, 20),))
    headers = tenant.member.headers
    (listed,) = app_client.get(PATH, headers=headers).json()["items"]
    assert listed["elements"] == {"total": 5, "pending": 2, "running": 1, "succeeded": 1, "failed": 1}
    assert (listed["progress"]["fraction"], listed["progress"]["line"]) == (0.4, "2 of 5 elements")
    elements = f"{PATH}/{task.uid}/elements"
    first = app_client.get(f"{elements}?limit=2", headers=headers).json()
    rest = app_client.get(f"{elements}?limit=2&cursor={first['next_cursor']}", headers=headers).json()
    shown = [(each["index"], each["state"], each["attempt"]) for each in first["items"] + rest["items"]]
    assert shown == [(0, "succeeded", 1), (1, "failed", 1), (2, "running", 1)]
    (failed,) = app_client.get(f"{elements}?state=failed", headers=headers).json()["items"]
    assert (failed["exit_code"], failed["log_from"], failed["log_to"]) == (1, 10, 15)
    assert app_client.get(elements, headers=other_tenant.member.headers).status_code == 404
    detail = app_client.get(f"{PATH}/{task.uid}", headers=headers).json()
    assert [attempt["number"] for attempt in detail["attempt_list"]] == [1]
    workers = select(Task.uid).where(Task.array_id.is_not(None))
    for uid in world.database.transact(lambda session: session.scalars(workers).all()):
        assert app_client.get(f"{PATH}/{uid}", headers=headers).status_code == 404
        assert app_client.post(f"{PATH}/{uid}/cancel", headers=headers).status_code == 404
        assert app_client.get(f"{PATH}/{uid}/logs", headers=headers).status_code == 404
