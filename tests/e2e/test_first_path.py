"""The six steps of a first customer, on the real parts, in the order in which a person takes them."""

import json
import re
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser import browsing, keep_screenshot
from tests.e2e.commands import Customer, Person
from tests.e2e.conftest import Platform
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def customer(lovelace: Customer) -> Customer:
    return lovelace


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browsing() as context:
        yield context.new_page()


def inspect(container: str) -> dict[str, object]:
    done = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)[0]
    return found


def test_the_hub_takes_a_visitor_through_the_platforms_sign_in(
    platform: Platform, customer: Customer, page: Page
) -> None:
    page.goto(platform.hub_url)
    assert page.url.startswith(platform.public_url), "sign-in is the platform's page, not the Hub's"
    keep_screenshot(page, "sign-in")
    page.get_by_label("User name").fill(customer.owner.username)
    page.get_by_label("Password").fill(customer.owner.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile(re.escape(platform.hub_url)))
    keep_screenshot(page, "hub-home")


def test_an_environment_is_created_and_jupyterlab_opens(customer: Customer, page: Page) -> None:
    environment = customer.owner.json(
        "env", "create", "--gpus", "1", "--gpu-model", "A100", "--image", "base", "--name", "lab", "--wait"
    )
    assert environment["observed"] == "running"
    assert [device["simulated"] for device in environment["allocation"]["devices"]] == [True]
    page.goto(environment["url"])
    expect(page.locator("#jp-main-dock-panel")).to_be_visible()
    keep_screenshot(page, "jupyterlab")


def test_the_container_has_exactly_what_was_rented(customer: Customer) -> None:
    environment = customer.owner.json("env", "show", "lab")
    listed = subprocess.run(
        ["docker", "ps", "-q", "--filter", f"name=rg-env-{environment['id']}"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = inspect(listed.stdout.split()[0])
    host_config = found["HostConfig"]
    assert isinstance(host_config, dict)
    assert host_config["Memory"] == environment["memory_bytes"]
    assert host_config["NanoCpus"] == environment["cpu_milli"] * 1_000_000
    assert not host_config["Privileged"]
    metadata = subprocess.run(
        ["docker", "exec", listed.stdout.split()[0], "cat", "/run/remotegpu/allocation.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    devices = json.loads(metadata.stdout)["devices"]
    assert [d["uuid"] for d in devices] == [d["uuid"] for d in environment["allocation"]["devices"]]


def test_usage_statement_and_balance_agree_to_the_unit(customer: Customer) -> None:
    wait_for(lambda: customer.owner.json("usage"), timeout_s=30, what="usage to arrive")
    customer.owner.run("env", "stop", "lab", "--wait")

    def settled() -> bool:
        return bool(customer.owner.json("bill")["balance"]["held_micro"] == 0)

    wait_for(settled, timeout_s=30, what="the hold to be settled")
    bill = customer.owner.json("bill")
    charged = sum(line["amount_micro"] for line in bill["statement"]["lines"])
    assert charged > 0
    assert bill["balance"]["balance_micro"] == customer.balance * 10**6 - charged
    for line in bill["statement"]["lines"]:
        # one unit per second is 1000 micro-units per millisecond: no rounding is possible
        assert line["amount_micro"] == line["duration_ms"] * 1000


def test_a_new_start_finds_home_again(customer: Customer) -> None:
    environment = customer.owner.json("env", "start", "lab", "--wait")
    container = _container(environment["id"])
    subprocess.run(
        ["docker", "exec", "-u", "jovyan", container, "sh", "-c", "echo kept > /home/jovyan/note"], check=True
    )
    host = environment["allocation"]["host"]
    customer.owner.run("env", "stop", "lab", "--wait")
    again = customer.owner.json("env", "start", "lab", "--wait")
    assert again["allocation"]["host"] == host
    note = subprocess.run(
        ["docker", "exec", _container(again["id"]), "cat", "/home/jovyan/note"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert note.stdout == "kept\n"
    customer.owner.run("env", "stop", "lab", "--wait")


def test_a_full_cluster_queues_with_a_reason_and_starts_by_itself(customer: Customer) -> None:
    first = customer.owner.json("env", "create", "--gpus", "4", "--gpu-model", "A100", "--name", "first", "--wait")
    second = customer.owner.json("env", "create", "--gpus", "4", "--gpu-model", "A100", "--name", "second", "--wait")
    assert first["allocation"]["host"] != second["allocation"]["host"]
    customer.owner.run("env", "create", "--gpus", "4", "--gpu-model", "A100", "--name", "third")

    def reason() -> str:
        wait = customer.owner.json("env", "show", "third")["wait"]
        return wait["code"] if wait else ""

    wait_for(reason, timeout_s=10, what="a reason for the wait")
    assert reason() == "no_capacity"
    customer.owner.run("env", "stop", "first", "--wait")
    wait_for(
        lambda: customer.owner.json("env", "show", "third")["observed"] == "running",
        timeout_s=60,
        what="third to start",
    )
    for name in ("second", "third"):
        customer.owner.run("env", "stop", name, "--wait")
    for name in ("first", "second", "third"):
        customer.owner.run("env", "rm", name, "--yes")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--image", "nope"], 5, "image"),
        (["--gpus", "0"], 5, "gpus"),
        (["--gpus", "1000"], 5, "gpus"),
        (["--gpu-model", "B900"], 5, "B900"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(customer: Customer, arguments: list[str], code: int, said: str) -> None:
    done = customer.owner.run("env", "create", "--name", "bad", *arguments, check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_name_is_taken_once(customer: Customer) -> None:
    done = customer.owner.run("env", "create", "--name", "lab", check=False)
    assert done.returncode == 5 and "lab" in done.stderr


def test_the_administrator_sees_machines_and_the_ray_dashboard(platform: Platform, operator: Person) -> None:
    machines = operator.json("admin", "machine", "list")
    assert [(m["device_status"], m["simulated"], len(m["gpus"])) for m in machines] == [("online", True, 4)] * 2
    assert httpx.get(f"{platform.public_url}/ops/ray/", follow_redirects=False).status_code in (302, 303, 307, 401, 403)
    with browsing() as context:
        admin_page = context.new_page()
        admin_page.goto(f"{platform.public_url}/ops/ray/")
        admin_page.get_by_label("User name").fill(operator.username)
        admin_page.get_by_label("Password").fill(operator.password)
        admin_page.get_by_role("button", name="Sign in").click()
        expect(admin_page.get_by_text("Cluster", exact=True).first).to_be_visible()
        keep_screenshot(admin_page, "ray-dashboard")


def _container(environment_id: str) -> str:
    done = subprocess.run(
        ["docker", "ps", "-q", "--filter", f"name=rg-env-{environment_id}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()[0]
