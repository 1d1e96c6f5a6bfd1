"""What the Hub relies on: its servers are the platform's environments, changes reach it at once, and its container
operations go to one container under the current lease.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.db import Database
from api.environments.reconciler import EnvironmentReconciler
from api.host_calls import AT_ONCE
from api.identity.tables import User
from api.identity.users import FirstPassword, set_password
from api.principal import Role
from api.settings import Settings
from api.tenants.tables import Workspace
from scheduler.states import AllocationState, EnvironmentState
from tests.db.environment_world import RecordingHosts, RecordingHub, World
from tests.db.hub_side import OPTIONS, SERVER, Controller
from tests.db.listener import Listener
from tests.waiting import wait_for


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_users_servers_are_listed_however_they_were_made(hub: httpx.Client, world: World) -> None:
    servers = "/internal/hub/servers/acme-owner"
    assert hub.get(servers).json() == {"items": []}
    hub.post(f"{SERVER}/start", json=OPTIONS)
    hub.post(f"{servers}/alpha/start", json=OPTIONS)
    first, second = hub.get(servers).json()["items"]
    assert (first["name"], second["name"]) == ("alpha", "lab")
    assert (second["image"], second["gpus"], second["gpu_model"]) == ("base", 1, "A100")
    assert (second["observed"], second["wait"]["code"]) == ("queued", "queued")
    assert hub.get("/internal/hub/servers/nobody").json() == {"items": []}


def test_options_are_what_the_user_may_start(hub: httpx.Client, world: World, database: Database) -> None:
    with database.session() as session, session.begin():
        session.add(Workspace(customer_id=world.owner[0].id, name="vision"))
    options = hub.get("/internal/hub/options", params={"username": "acme-owner"}).json()
    assert [image["name"] for image in options["images"]] == ["base"]
    assert (options["models"][0]["total"], options["models"][0]["free"]) == (4, 4)
    assert options["balance_micro"] == 1000 * 1_000_000
    assert options["max_gpus"] >= 1
    assert (options["max_priority"], options["capacity_groups"], options["reservations"]) == (500, [], [])
    assert options["workspaces"] == ["vision"]


@pytest.mark.parametrize("role", [Role.ADMIN, Role.OWNER])
def test_the_hub_learns_of_a_change_of_password_and_that_an_account_is_disabled(
    hub: httpx.Client, world: World, database: Database, role: Role
) -> None:
    """An administrator's too: they rent nothing, but see and stop everybody's servers there."""
    name = "acme-owner"
    if role is Role.ADMIN:
        name = "chief"
        chief = User(username=name, role=role, password_hash="x")
        database.transact(lambda session: session.add(chief))
        assert code(hub.get("/internal/hub/options", params={"username": name})) == (403, "no_customer")
    path = f"/internal/hub/users/{name}"
    assert hub.get(path).json() == {"password_changed_at": None}
    before = utc_now()

    def change(session: Session) -> None:
        set_password(
            session, session.scalars(select(User).where(User.username == name)).one(), FirstPassword.own("new")
        )

    database.transact(change)
    assert before <= datetime.fromisoformat(hub.get(path).json()["password_changed_at"]) <= utc_now()
    shut_out = update(User).where(User.username == name).values(disabled_at=utc_now())
    database.transact(lambda session: session.execute(shut_out))
    assert code(hub.get(path)) == (403, "account_disabled")
    assert code(hub.get("/internal/hub/options", params={"username": name})) == (403, "account_disabled")
    assert code(hub.get("/internal/hub/users/nobody")) == (404, "no_such_user")


def test_a_server_from_the_hubs_page_is_an_environment(hub: httpx.Client, world: World) -> None:
    assert code(hub.get(SERVER)) == (404, "no_such_environment")
    assert code(hub.post(f"{SERVER}/start")) == (404, "no_options")
    assert code(hub.post(f"{SERVER}/start", json={"options": {"image": "base", "gpus": -1}})) == (422, "validation")
    view = hub.post(f"{SERVER}/start", json=OPTIONS).json()
    assert (view["observed"], view["allocation_state"]) == ("queued", "queued")
    assert view["wait"]["code"]
    assert hub.post(f"{SERVER}/start", json=OPTIONS).json()["allocation_id"] == view["allocation_id"]
    world.place()
    lab = world.rows()[0]
    placed = hub.get(SERVER).json()
    assert placed["version"] > view["version"]
    assert (placed["allocation_state"], placed["generation"], placed["host"]) == ("active", 1, "h1")
    assert placed["container_name"].startswith(f"rg-env-{lab.uid}-")
    assert len(placed["container_name"]) <= 63
    assert (placed["image"], placed["port"], len(placed["devices"])) == ("remotegpu/base:1", 8888, 1)
    assert hub.post(f"{SERVER}/ready").json()["observed"] == EnvironmentState.RUNNING
    older = hub.post(f"{SERVER}/stop", json={"container_name": "rg-env-older"}).json()
    assert (older["observed"], older["desired"]) == (EnvironmentState.RUNNING, "running")
    stop = {"container_name": placed["container_name"]}
    assert hub.post(f"{SERVER}/stop", json=stop).json()["observed"] == EnvironmentState.STOPPING
    assert world.allocation(lab).state == AllocationState.RELEASING
    assert hub.post(f"{SERVER}/ready").json()["observed"] == EnvironmentState.STOPPING
    assert code(hub.post("/internal/hub/servers/nobody/lab/start", json=OPTIONS)) == (404, "no_such_user")


def test_the_form_reaches_the_queue_and_what_is_wrong_in_it_is_named(hub: httpx.Client, world: World) -> None:
    def start(**more: Any) -> httpx.Response:
        return hub.post(f"{SERVER}/start", json={"options": {**OPTIONS["options"], **more}})

    wrong = start(selectors=["zone in a"])
    assert code(wrong) == (422, "validation")
    assert "'a' is no list of values in parentheses" in wrong.json()["detail"]
    assert code(start(priority=501)) == (422, "priority_too_high")
    assert start(gpu_milli=500, priority=7, preemptible=True, whatever="the Hub adds").status_code == 200
    queued = world.allocation(world.rows()[0])
    assert (queued.milli, queued.priority, queued.preemptible) == (500, 7, True)
    (entry,) = hub.get("/internal/hub/servers/acme-owner").json()["items"]
    assert (entry["gpus"], entry["gpu_milli"], entry["gpu_model"]) == (1, 500, "A100")


def test_a_container_that_the_hub_gave_up_is_no_wish_to_stop(hub: httpx.Client, world: World) -> None:
    hub.post(f"{SERVER}/start", json=OPTIONS)
    assert hub.post(f"{SERVER}/failed", json={"container_name": "", "error": "early"}).json()["last_error"] is None
    world.place()
    lab = world.rows()[0]
    container = hub.get(SERVER).json()["container_name"]
    other = hub.post(f"{SERVER}/failed", json={"container_name": "another", "error": "stale"}).json()
    assert (other["desired"], other["last_error"]) == ("running", None)
    given_up = {"container_name": container, "error": "It did not answer. " + "x" * 1000}
    starting = hub.post(f"{SERVER}/failed", json=given_up).json()
    assert (starting["desired"], starting["allocation_state"]) == ("running", AllocationState.ACTIVE)
    assert starting["last_error"].startswith("It did not answer.") and len(starting["last_error"]) == 500
    hub.post(f"{SERVER}/ready")
    ran = hub.post(f"{SERVER}/failed", json=given_up).json()
    assert (ran["observed"], ran["allocation_state"]) == (EnvironmentState.STOPPING, AllocationState.RELEASING)
    assert world.allocation(lab).end_reason == "failed"
    assert hub.post(f"{SERVER}/failed", json=given_up | {"more": 1}).status_code == 422


def test_a_long_poll_answers_when_something_changes(hub: httpx.Client, world: World, listener: Listener) -> None:
    view = hub.post(f"{SERVER}/start", json=OPTIONS).json()
    unchanged = time.monotonic()
    same = hub.get(SERVER, params={"seen": view["version"], "wait_s": 0.3}).json()
    assert same["version"] == view["version"]
    assert time.monotonic() - unchanged >= 0.3
    answers: list[tuple[float, dict[str, Any]]] = []

    def poll() -> None:
        with listener.client("hub") as client:
            answer = client.get(SERVER, params={"seen": view["version"], "wait_s": 30}).json()
        answers.append((time.monotonic(), answer))

    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.3)  # so that it waits already; being late would only make the test easier
    world.place()
    placed_at = time.monotonic()
    thread.join(20)
    ((answered_at, answer),) = answers
    assert answer["version"] > view["version"]
    assert answered_at - placed_at < 1.0


def test_a_restart_waits_for_the_end_of_the_run_before(
    hub: httpx.Client, world: World, listener: Listener, database: Database, settings: Settings
) -> None:
    hub.post(f"{SERVER}/start", json=OPTIONS)
    world.place()
    hub.post(f"{SERVER}/ready")
    hub.post(f"{SERVER}/stop")
    answers: list[httpx.Response] = []

    def start() -> None:
        with listener.client("hub") as client:
            answers.append(client.post(f"{SERVER}/start"))

    thread = threading.Thread(target=start)
    thread.start()
    world.release()
    reconciler = EnvironmentReconciler(database, settings, RecordingHub(), RecordingHosts())
    try:
        while thread.is_alive():
            reconciler.run_once()
            thread.join(0.05)
    finally:
        reconciler.close()
    assert (answers[0].status_code, answers[0].json()["observed"]) == (200, "queued")


def test_operations_go_to_the_leases_container_alone(hub: httpx.Client, world: World, controller: Controller) -> None:
    hub.post(f"{SERVER}/start", json=OPTIONS)
    assert code(hub.post(f"{SERVER}/docker/inspect_container", json={})) == (409, "lease_ended")  # it waits
    world.place()
    lab = world.rows()[0]
    held = world.allocation(lab)
    arguments = {"command": ["jupyterhub-singleuser"], "environment": {"A": "b"}, "labels": {}}
    assert hub.post(f"{SERVER}/docker/create_container", json=arguments).json() == {"Id": "c1"}
    (asked,) = controller.asked
    assert asked[0].endswith(" container")
    asked[1]["arguments"]["environment"] = {
        name: value for name, value in asked[1]["arguments"]["environment"].items() if not name.startswith("RAY_")
    }  # see test_job_access.py
    assert asked[1] == {
        "allocation_uid": str(held.uid),
        "generation": held.generation,
        "operation": "create_container",
        "arguments": arguments,
    }
    for operation, body in (
        ("create_container", {**arguments, "host_config": {"Privileged": True}}),
        ("create_container", {**arguments, "name": "someone-elses"}),
        ("remove_container", {"container": "someone-elses"}),
        ("stop", {"timeout": 10**9}),
        ("exec_create", {}),
    ):
        assert hub.post(f"{SERVER}/docker/{operation}", json=body).status_code == 422
    assert len(controller.asked) == 1
    world.stop(lab)
    assert code(hub.post(f"{SERVER}/docker/start", json={})) == (409, "lease_ended")
    assert len(controller.asked) == 1


def test_a_host_that_hangs_keeps_nobody_else_waiting(hub: httpx.Client, world: World, controller: Controller) -> None:
    """More calls of it than there are threads for requests."""
    hub.post(f"{SERVER}/start", json=OPTIONS)
    world.place()
    controller.hangs = threading.Event()
    look = partial(hub.post, f"{SERVER}/docker/inspect_container", json={})
    with ThreadPoolExecutor(60) as pool:
        try:
            calls = [pool.submit(look) for _ in range(60)]
            wait_for(lambda: len(controller.asked) == AT_ONCE, timeout_s=20, what="calls that hang")
            assert hub.get(SERVER, timeout=5).status_code == 200
            assert not any(call.done() for call in calls)
        finally:
            controller.hangs.set()
        assert {call.result().status_code for call in calls} == {200}
    assert len(controller.asked) == 60


def test_dockers_errors_reach_the_hub_and_explain_the_failure(
    hub: httpx.Client, world: World, controller: Controller
) -> None:
    hub.post(f"{SERVER}/start", json=OPTIONS)
    world.place()
    controller.status = 424
    controller.answer = {"code": "docker_error", "docker_status": 404, "docker_message": "No such image"}
    answer = hub.post(f"{SERVER}/docker/create_container", json={"command": [], "environment": {}})
    assert (answer.status_code, answer.json()["docker_status"]) == (424, 404)
    assert world.rows()[0].last_error == "No such image"
    controller.status, controller.answer = 409, {"code": "stale_generation"}
    assert code(hub.post(f"{SERVER}/docker/port", json={})) == (409, "lease_ended")
    controller.status, controller.answer = 503, {"code": "host_unreachable", "detail": "gone"}
    assert code(hub.post(f"{SERVER}/docker/port", json={})) == (503, "host_unreachable")


def test_without_a_controller_a_host_is_unreachable(hub: httpx.Client, world: World) -> None:
    hub.post(f"{SERVER}/start", json=OPTIONS)
    world.place()
    assert code(hub.post(f"{SERVER}/docker/inspect_container")) == (503, "host_unreachable")
