"""The Hub may go and come back: what runs keeps running, and its users do not notice."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from deploy.instance import load
from deploy.supervisor import Supervisor
from tests.e2e.browser import browsing, visit_hub
from tests.e2e.commands import Customer
from tests.e2e.conftest import Platform
from tests.e2e.containers import container_of
from tests.e2e.jupyterlab import expect_lab
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def environment(lovelace: Customer) -> Iterator[dict[str, Any]]:
    arguments = ("--name", "lasting", "--cpus", "1", "--memory", "1GiB")
    yield lovelace.owner.json("env", "create", *arguments, "--wait")
    lovelace.owner.run("env", "rm", "lasting", "--yes")


@pytest.fixture(scope="module")
def page(platform: Platform, lovelace: Customer) -> Iterator[Page]:
    with browsing() as context:
        page = context.new_page()
        visit_hub(page, platform.hub_url, lovelace.owner)
        yield page


def _kill_hub(platform: Platform) -> None:
    supervisor = Supervisor(load(platform.data))
    pid = supervisor.pids()["hub"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: supervisor.pids().get("hub", pid) != pid, timeout_s=60, what="another process of the Hub")


def test_a_server_runs_on_while_the_hub_restarts(
    platform: Platform, lovelace: Customer, environment: dict[str, Any], page: Page
) -> None:
    page.goto(environment["url"])
    expect_lab(page)
    container = container_of(environment)
    _kill_hub(platform)
    # The proxy is a process of its own and keeps its route: the server answers while there is no Hub.
    answer = page.request.get(f"{environment['url']}api")
    assert answer.status == 200 and "version" in answer.json()

    def hub_answers() -> bool:
        try:
            return httpx.get(f"{platform.hub_url}/hub/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(hub_answers, timeout_s=120, every_s=0.5, what="the Hub to be back")
    page.reload()
    expect_lab(page)
    page.goto(f"{platform.hub_url}/hub/home")
    expect(page.get_by_role("article", name="lasting").get_by_role("link", name="Open lasting")).to_be_visible()
    after = lovelace.owner.json("env", "show", "lasting")
    assert (after["id"], after["observed"]) == (environment["id"], "running")
    assert after["allocation"]["id"] == environment["allocation"]["id"], "the same lease"
    assert container_of(after) == container, "in the same container"


def test_after_the_restart_the_hub_still_stops_it(
    platform: Platform, lovelace: Customer, environment: dict[str, Any], page: Page
) -> None:
    page.goto(f"{platform.hub_url}/hub/home")
    page.get_by_role("article", name="lasting").get_by_role("button", name="Stop").click()
    expect(page.get_by_role("link", name="Start lasting")).to_be_visible()
    assert lovelace.owner.json("env", "show", "lasting")["observed"] == "stopped"
