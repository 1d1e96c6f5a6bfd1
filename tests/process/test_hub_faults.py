"""Starts that fail, or whose host, platform or Hub is away for a while: none of that is anybody's wish to stop."""

import signal
from typing import Any

import docker
import httpx
import psycopg
import pytest
from docker.errors import NotFound
from sqlalchemy import make_url

from deploy.postgres import EmbeddedPostgres
from tests.process.hub_fixtures import server, start_by_form, start_by_rest, stop_by_rest, wait_ready
from tests.process.hub_platform import Environment, HubPlatform
from tests.process.hub_processes import HubProcesses
from tests.waiting import wait_for


@pytest.fixture
def platform(hub_platform: HubPlatform) -> HubPlatform:
    hub_platform.forget()
    return hub_platform


def test_a_failing_container_is_shown_and_is_nobodys_stop(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform, engine: docker.APIClient
) -> None:
    start_by_form(browser, "broken")
    environment = platform.environments["ada", "broken"]
    wait_for(lambda: "start" in platform.operations, timeout_s=60, what="started")
    engine.kill(environment.container_name)
    wait_for(lambda: not server(hub, "broken")["pending"], timeout_s=60, what="the failed start is over")
    page = browser.get("/hub/spawn-pending/ada/broken")
    assert "exit code 137" in page.text
    assert "exit code 137" in platform.failures[0]
    assert environment.desired == "running" and "platform:stop" not in platform.operations
    with pytest.raises(NotFound):
        engine.inspect_container(environment.container_name)
    start_by_rest(hub, "broken")  # as the platform does
    stop_by_rest(hub, "broken")


def begin(hub: HubProcesses, platform: HubPlatform, name: str, **faults: Any) -> Environment:
    """As the platform starts one that has its allocation, on a host with these faults."""
    environment = Environment(f"{platform.prefix}-{name}", {}, active=True, **faults)
    platform.environments["ada", name] = environment
    with hub.api as api:
        assert api.post(f"/users/ada/servers/{name}").status_code in (201, 202), hub.log()[-3000:]
    return environment


def asked(platform: HubPlatform, operation: str, times: int) -> None:
    wait_for(lambda: platform.operations.count(operation) >= times, timeout_s=60, what=f"{operation} asked {times}x")


@pytest.mark.parametrize("faults", [{"host_answers": False}, {"answers_lost": {"create_container"}}], ids=str)
def test_a_start_outlasts_a_host_that_does_not_answer(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform, faults: dict[str, Any]
) -> None:
    name = f"cut-{next(iter(faults)).replace('_', '-')}"
    begin(hub, platform, name, **faults)
    asked(platform, "create_container", times=5)
    platform.change("ada", name, host_answers=True, answers_lost=frozenset())
    wait_ready(hub, name)
    assert "platform:stop" not in platform.operations and platform.failures == []
    stop_by_rest(hub, name)


def test_a_start_outlasts_a_platform_that_does_not_answer(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform
) -> None:
    begin(hub, platform, "orphaned", host_answers=False)
    asked(platform, "create_container", times=1)
    platform.away = True
    platform.change("ada", "orphaned", host_answers=True)
    refused = platform.refused
    wait_for(lambda: platform.refused > refused + 6, timeout_s=60, what="more than one call's tries")
    platform.away = False
    wait_ready(hub, "orphaned")
    assert "platform:stop" not in platform.operations and platform.failures == []
    stop_by_rest(hub, "orphaned")


def test_a_start_that_waits_for_its_host_can_be_stopped(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform
) -> None:
    environment = begin(hub, platform, "unwanted", host_answers=False)
    asked(platform, "create_container", times=1)
    stop_by_rest(hub, "unwanted")
    assert environment.desired == "stopped" and platform.failures == []
    count = len(platform.operations)
    platform.change("ada", "unwanted", host_answers=True)
    begin(hub, platform, "another")
    wait_ready(hub, "another")
    assert platform.created[-1]["environment"]["JUPYTERHUB_SERVER_NAME"] == "another"
    assert platform.operations[count:].count("create_container") == 1
    stop_by_rest(hub, "another")


def test_a_hub_killed_in_mid_start_stops_nothing(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform
) -> None:
    environment = begin(hub, platform, "interrupted", answers_lost={"start"})
    asked(platform, "start", times=1)
    hub.stop_hub(signal.SIGKILL)
    platform.change("ada", "interrupted", answers_lost=frozenset())
    left = platform.engine.inspect_container(environment.container_name)
    hub.start_hub()
    wait_for(lambda: not server(hub, "interrupted")["pending"], timeout_s=60, what="the new Hub has looked")
    assert environment.desired == "running" and "platform:stop" not in platform.operations
    start_by_rest(hub, "interrupted")  # as the platform does, which sees that the Hub has given it up
    assert platform.engine.inspect_container(environment.container_name)["Id"] != left["Id"]
    stop_by_rest(hub, "interrupted")


def test_a_restart_of_the_database_signs_nobody_out(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform, postgres: EmbeddedPostgres
) -> None:
    def cut() -> int:
        with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
            query = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = %s"
            row = connection.execute(query, [make_url(hub.database_url).database]).fetchone()
        assert row
        return int(row[0])

    for _ in range(3):
        assert browser.get("/hub/home", follow_redirects=False).status_code == 200
        assert cut() > 0
        assert browser.get("/hub/home", follow_redirects=False).status_code == 200
        with hub.api as api:
            assert cut() > 0
            assert api.get("/users/ada").status_code == 200
