"""Programs in an environment may submit jobs as its user, as long as its container lives, and nothing else."""

import json

import httpx
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.db import Database
from api.environments.reconciler import EnvironmentReconciler
from api.identity.tables import ApiKey
from scheduler.states import EnvironmentState
from tests.db.environment_world import RecordingHosts, RecordingHub, World
from tests.db.hub_side import OPTIONS, SERVER, Controller

CREATE = {"command": ["jupyterhub-singleuser"], "environment": {"RAY_AUTH_TOKEN": "the Hub's", "A": "b"}, "labels": {}}


def variables(hub: httpx.Client, controller: Controller) -> dict[str, str]:
    """Those of the container that is created now."""
    hub.post(f"{SERVER}/docker/create_container", json=CREATE).raise_for_status()
    given: dict[str, str] = controller.asked[-1][1]["arguments"]["environment"]
    return given


def asks(client: TestClient, token: str, path: str = "/api/v1/customer/environments") -> tuple[int, str]:
    answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
    return answer.status_code, answer.json()["code"]


def test_a_container_gets_a_key_of_its_own(
    hub: httpx.Client,
    world: World,
    controller: Controller,
    app_client: TestClient,
    database: Database,
) -> None:
    hub.post(f"{SERVER}/start", json=OPTIONS)
    world.place()
    given = variables(hub, controller)
    token = given["RAY_AUTH_TOKEN"]
    assert (given["A"], given["RAY_AUTH_MODE"]) == ("b", "token")
    assert given["RAY_API_SERVER_ADDRESS"] == "http://testserver"
    assert json.loads(given["RAY_JOB_HEADERS"]) == {"Authorization": f"Bearer {token}"}
    assert asks(app_client, token) == (403, "missing_scope")
    with database.session() as session:
        (key,) = session.scalars(select(ApiKey))
        assert (key.scopes, key.user_id) == (["tasks:read", "tasks:write"], world.owner[2].id)


def test_the_key_before_ends_with_the_next_container(
    hub: httpx.Client,
    world: World,
    controller: Controller,
    app_client: TestClient,
) -> None:
    hub.post(f"{SERVER}/start", json=OPTIONS)
    world.place()
    first, second = (variables(hub, controller)["RAY_AUTH_TOKEN"] for _ in range(2))
    assert first != second
    assert asks(app_client, first) == (401, "unauthenticated")
    assert asks(app_client, second) == (403, "missing_scope")


def test_the_key_ends_with_the_environment(
    hub: httpx.Client,
    world: World,
    controller: Controller,
    app_client: TestClient,
) -> None:
    hub.post(f"{SERVER}/start", json=OPTIONS)
    world.place()
    token = variables(hub, controller)["RAY_AUTH_TOKEN"]
    hub.post(f"{SERVER}/ready")
    assert asks(app_client, token) == (403, "missing_scope")
    hub.post(f"{SERVER}/stop")
    world.release()
    reconciler = EnvironmentReconciler(world.fleet.database, world.settings, RecordingHub(), RecordingHosts())
    try:
        reconciler.run_once()
    finally:
        reconciler.close()
    assert world.rows()[0].observed == EnvironmentState.STOPPED
    assert asks(app_client, token) == (401, "unauthenticated")
