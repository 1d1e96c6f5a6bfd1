"""A full cluster: who waits is told where and why, holds nothing meanwhile, and starts by itself."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser import browsing, keep_screenshot, visit_hub
from tests.e2e.commands import Customer
from tests.e2e.conftest import Platform
from tests.e2e.containers import container_of, containers_of, exit_time
from tests.e2e.jupyterlab import expect_lab
from tests.waiting import wait_for

_WHOLE_HOST = ("--gpus", "4", "--gpu-model", "A100", "--cpus", "1", "--memory", "1GiB")
_FREE_AGAIN_S = 2.0  # from the container's exit
_REASON = "0 of 8 A100-80GB GPUs that fit are free"


@pytest.fixture(scope="module")
def customer(lovelace: Customer) -> Customer:
    return lovelace


@pytest.fixture(scope="module")
def page(platform: Platform, customer: Customer) -> Iterator[Page]:
    with browsing() as context:
        page = context.new_page()
        visit_hub(page, platform.hub_url, customer.owner)
        yield page


@pytest.fixture(scope="module", autouse=True)
def full(customer: Customer) -> Iterator[None]:
    """Both hosts are rented out whole."""
    hosts = set()
    for name in ("first", "second"):
        environment = customer.owner.json("env", "create", "--name", name, *_WHOLE_HOST, "--wait")
        hosts.add(environment["allocation"]["host"])
    assert len(hosts) == 2
    yield
    for environment in customer.owner.json("env", "list"):
        customer.owner.run("env", "rm", environment["name"], "--yes")


def _show(customer: Customer, name: str) -> dict[str, Any]:
    environment: dict[str, Any] = customer.owner.json("env", "show", name)
    return environment


def _running(customer: Customer, name: str) -> bool:
    return bool(_show(customer, name)["observed"] == "running")


def test_who_waits_sees_position_and_reason_everywhere(platform: Platform, customer: Customer, page: Page) -> None:
    page.goto(f"{platform.hub_url}/hub/spawn?name=third")
    expect(page.get_by_label("GPU model")).to_contain_text("0 of 8 free")
    page.get_by_label("GPUs").fill("4")
    page.get_by_label("CPU cores").fill("1")
    page.get_by_label("Memory in GiB").fill("1")
    page.get_by_role("button", name="Start").click()
    began = time.monotonic()
    expect(page.locator("#progress-message")).to_contain_text("number 1 in the queue")
    expect(page.locator("#progress-message")).to_contain_text(_REASON)
    keep_screenshot(page, "spawn-pending-queued")
    customer.owner.run("env", "create", "--name", "fourth", *_WHOLE_HOST)

    with customer.owner.rest() as rest:
        rows = {row["name"]: row for row in rest.get("/customer/environments").json()["items"]}
    assert (rows["third"]["wait"]["code"], rows["third"]["wait"]["position"]) == ("no_capacity", 1)
    assert _REASON in rows["third"]["wait"]["detail"]

    def second_in_line() -> bool:
        wait = _show(customer, "fourth")["wait"]
        return bool(wait and (wait["code"], wait["position"]) == ("no_capacity", 2))

    wait_for(second_in_line, timeout_s=30, what="a place behind the third")
    listed = customer.owner.run("env", "list").stdout
    assert re.search(r"third +queued.*0 of 8 A100-80GB GPUs that fit are free.*place 1 in the queue", listed), listed

    # Hours in the queue must not hold one of the Hub's spawn slots: the Hub lets go, the platform keeps the place.
    page.wait_for_url(re.compile("/hub/waiting/"))
    assert time.monotonic() - began < 60
    expect(page.locator("#waiting-message")).to_contain_text(_REASON)
    keep_screenshot(page, "waiting")
    assert _show(customer, "third")["wait"]["position"] == 1


def test_the_home_page_shows_who_waits_and_takes_one_out_of_the_queue(
    platform: Platform, customer: Customer, page: Page
) -> None:
    page.goto(f"{platform.hub_url}/hub/home")
    fourth = page.get_by_role("article", name="fourth")
    expect(fourth).to_contain_text("number 2 in the queue")
    keep_screenshot(page, "hub-home-queue")
    fourth.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("article", name="fourth")).to_contain_text("stopped")
    assert _show(customer, "fourth")["observed"] == "stopped"


def test_a_stop_frees_the_gpus_at_once_and_who_waits_starts_by_itself(
    platform: Platform, customer: Customer, page: Page
) -> None:
    page.goto(f"{platform.hub_url}/hub/waiting/{customer.owner.username}/third")
    expect(page.locator("#waiting-message")).to_contain_text("number 1")
    before = _show(customer, "first")
    container, asked = container_of(before), datetime.now(UTC)
    customer.owner.run("env", "stop", "first")
    page.wait_for_url(re.compile(f"/user/{customer.owner.username}/third/"))
    expect_lab(page)
    assert _running(customer, "third")
    assert _show(customer, "third")["allocation"]["host"] == before["allocation"]["host"]
    assert containers_of(before) == []

    ended, allocation = exit_time(container, since=asked), before["allocation"]["id"]
    with customer.owner.rest() as rest:
        released = rest.get(f"/customer/allocations/{allocation}").json()
        usage = [u for u in rest.get("/customer/billing/usage").json()["items"] if u["allocation_id"] == allocation]
    free_after = datetime.fromisoformat(released["released_at"]) - ended
    assert free_after.total_seconds() < _FREE_AGAIN_S, "the GPUs are free that long after the container's exit"
    last_proof = max(datetime.fromisoformat(interval["to"]) for interval in usage)
    assert ended - timedelta(seconds=2) < last_proof <= ended + timedelta(milliseconds=50), (
        "not a moment more is billed"
    )


def test_an_environment_that_waits_for_its_host_says_so(customer: Customer) -> None:
    customer.owner.run("env", "start", "first")

    def reason() -> dict[str, Any] | None:
        wait: dict[str, Any] | None = _show(customer, "first")["wait"]
        return wait if wait and wait["code"] != "queued" else None

    wait = wait_for(reason, timeout_s=30, what="a reason for the wait")
    host = _show(customer, "third")["allocation"]["host"]
    assert wait["code"] == "bound_host_busy" and f"lives on host {host}" in wait["detail"]
    customer.owner.run("env", "stop", "second", "--wait")
    assert _show(customer, "first")["observed"] == "queued", "the other host is free, but its home is not there"
    customer.owner.run("env", "stop", "first", "--wait")
