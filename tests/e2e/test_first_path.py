"""A first customer's way through the product, on the real parts, in the order in which people take it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser import browsing, fill_sign_in, keep_screenshot
from tests.e2e.commands import Customer, Person
from tests.e2e.conftest import Platform, unvisited_customer
from tests.e2e.containers import container_of, inside, inspect
from tests.e2e.jupyterlab import expect_lab, new_notebook, run_cell
from tests.waiting import wait_for

_BALANCE = 1_000_000
_MEMORY = 2**30


@pytest.fixture(scope="module")
def newcomer(operator: Person, profiles: Path) -> tuple[Customer, str]:
    """A customer whom the administrator has made with the command, and its owner's first password."""
    return unvisited_customer(operator, profiles, name="Curie Institute", owner="marie", balance=_BALANCE)


@pytest.fixture(scope="module")
def customer(newcomer: tuple[Customer, str]) -> Customer:
    return newcomer[0]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browsing() as context:
        yield context.new_page()


def test_the_administrator_makes_customers_with_the_command_or_over_rest(
    operator: Person, customer: Customer, profiles: Path
) -> None:
    with operator.rest() as rest:
        name = f"{customer.name} II"
        made = rest.post("/admin/customers", json={"name": name, "owner": {"username": f"{customer.owner.username}-2"}})
        assert made.status_code == 201, made.text
        other = made.json()
        topped = rest.post(f"/admin/customers/{other['id']}/top-up", json={"amount_micro": 5_000_000})
        assert topped.is_success, topped.text
        assert rest.get(f"/admin/customers/{other['id']}/balance").json()["balance_micro"] == 5_000_000
    listed = {c["id"]: c["name"] for c in operator.json("admin", "customer", "list")}
    assert listed[customer.customer_id] == customer.name and listed[other["id"]] == name
    price = next(p for p in operator.json("admin", "price", "list") if p["gpu_model"] == "A100")
    assert price["price_micro"] == 3_600_000_000
    owner = Person(operator.address, profiles / "second.json", other["owner"]["username"], "a pass phrase of a second")
    owner.sign_in(other["owner"]["password"])
    assert owner.json("whoami")["customer"]["name"] == name


def test_a_new_owner_signs_in_at_the_hub_and_chooses_a_password(
    platform: Platform, newcomer: tuple[Customer, str], page: Page
) -> None:
    customer, first_password = newcomer
    page.goto(platform.hub_url)
    assert page.url.startswith(f"{platform.public_url}/account/login"), "the sign-in is the platform's page"
    keep_screenshot(page, "sign-in")
    page.get_by_label("User name").fill(customer.owner.username)
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    keep_screenshot(page, "sign-in-refused")
    page.get_by_label("Password").fill(first_password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Choose a password")).to_be_visible()
    keep_screenshot(page, "first-password")
    page.get_by_label("Current password").fill(first_password)
    page.get_by_label("New password", exact=True).fill(customer.owner.password)
    page.get_by_label("New password again").fill(customer.owner.password)
    page.get_by_role("button", name="Set the password").click()
    page.wait_for_url(f"{platform.hub_url}/hub/home")
    expect(page.get_by_text("no environments yet")).to_be_visible()
    keep_screenshot(page, "hub-home-empty")
    customer.owner.sign_in()


def test_one_sign_in_is_for_both(platform: Platform, customer: Customer, page: Page) -> None:
    page.goto(platform.public_url)
    expect(page.get_by_role("heading", name=customer.owner.username)).to_be_visible()
    keep_screenshot(page, "platform-home")


def test_an_environment_starts_from_the_hubs_form(platform: Platform, customer: Customer, page: Page) -> None:
    page.goto(f"{platform.hub_url}/hub/home")
    page.get_by_label("Name").fill("lab")
    page.get_by_role("button", name="Choose GPUs and image").click()
    expect(page.get_by_role("heading", name="Start lab")).to_be_visible()
    page.get_by_label("Image").select_option("base")
    page.get_by_label("GPUs").fill("2")
    page.get_by_label("GPU model").select_option("A100-80GB")
    page.get_by_label("CPU cores").fill("1")
    page.get_by_label("Memory in GiB").fill("1")
    keep_screenshot(page, "spawn-form")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="Starting lab")).to_be_visible()
    keep_screenshot(page, "spawn-pending")
    page.wait_for_url(re.compile(re.escape(f"{platform.hub_url}/user/{customer.owner.username}/lab/")))
    expect_lab(page)
    keep_screenshot(page, "jupyterlab")


def _lab(customer: Customer) -> dict[str, Any]:
    environment: dict[str, Any] = customer.owner.json("env", "show", "lab")
    return environment


def test_the_command_and_the_api_show_the_row_that_the_form_made(customer: Customer) -> None:
    environment = _lab(customer)
    assert environment["observed"] == "running"
    assert (environment["gpus"], environment["gpu_model"], environment["image"]) == (2, "A100-80GB", "base")
    assert (environment["cpu_milli"], environment["memory_bytes"]) == (1000, _MEMORY)
    with customer.owner.rest() as rest:
        (row,) = rest.get("/customer/environments").json()["items"]
    assert row["id"] == environment["id"] and row["url"] == environment["url"]


def test_a_cell_sees_exactly_the_rented_devices(customer: Customer, page: Page) -> None:
    rented = _lab(customer)["allocation"]["devices"]
    assert len(rented) == 2 and all(device["simulated"] for device in rented)
    new_notebook(page)
    code = "import json; print(json.dumps(json.load(open('/run/remotegpu/allocation.json'))['devices']))"
    seen = json.loads(run_cell(page, code))
    assert sorted(d["uuid"] for d in seen) == sorted(d["uuid"] for d in rented)
    assert all(device["simulated"] for device in seen)
    keep_screenshot(page, "notebook-devices")


def test_what_reaches_docker_is_the_lease_and_no_device_is_invented(customer: Customer) -> None:
    host = inspect(container_of(_lab(customer)))["HostConfig"]
    assert host["DeviceRequests"] in (None, []) and not host["Devices"], "simulated devices are metadata, no devices"
    assert (host["Memory"], host["NanoCpus"]) == (_MEMORY, 1_000_000_000)
    assert host["MemorySwap"] == _MEMORY, "no swap beyond the memory that is paid for"
    assert not host["Privileged"] and host["CapDrop"] == ["ALL"]
    assert 0 < host["PidsLimit"] < 100_000
    assert not [mount for mount in host["Binds"] or [] if "docker.sock" in mount]


def test_the_limits_hold_from_inside(customer: Customer, page: Page) -> None:
    hungry = (
        "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'b = bytearray(3 * 2**29)']).returncode)"
    )
    assert run_cell(page, hungry) == "-9", "killed at its memory limit"
    busy = (
        "import os, time; end = time.monotonic() + 2\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        while time.monotonic() < end: pass\n"
        "        os._exit(0)\n"
        "for _ in range(3): os.wait()\n"
        "spent = os.times(); print(spent.children_user + spent.children_system)"
    )
    container = container_of(_lab(customer))
    assert 0 < float(inside(container, "python3", "-c", busy)) < 2.6, "one core for two seconds, whatever asks for it"


def test_an_environment_of_the_command_is_on_the_hubs_page_too(
    platform: Platform, customer: Customer, page: Page
) -> None:
    arguments = ("--gpus", "1", "--gpu-model", "A100", "--image", "base", "--name", "second")
    environment = customer.owner.json("env", "create", *arguments, "--memory", "1GiB", "--wait")
    assert environment["observed"] == "running"
    page.goto(f"{platform.hub_url}/hub/home")
    row = page.get_by_role("article", name="second")
    expect(row).to_contain_text("running")
    keep_screenshot(page, "hub-home")
    row.get_by_role("link", name="second", exact=True).click()
    expect_lab(page)


def test_stopping_from_the_hubs_page_stops_it_everywhere(platform: Platform, customer: Customer, page: Page) -> None:
    page.goto(f"{platform.hub_url}/hub/home")
    page.get_by_role("button", name="Stop second").click()
    expect(page.get_by_role("article", name="second")).to_contain_text("stopped")
    wait_for(
        lambda: customer.owner.json("env", "show", "second")["observed"] == "stopped", timeout_s=30, what="the stop"
    )


def test_home_survives_and_the_environment_returns_to_its_host(
    platform: Platform, customer: Customer, page: Page
) -> None:
    before = _lab(customer)
    inside(container_of(before), "sh", "-c", "echo kept > /home/jovyan/note")
    customer.owner.run("env", "stop", "lab", "--wait")
    page.goto(f"{platform.hub_url}/hub/home")
    page.get_by_role("link", name="Start lab").click()
    keep_screenshot(page, "spawn-form-again")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile(re.escape(f"{platform.hub_url}/user/{customer.owner.username}/lab/")))
    after = _lab(customer)
    assert after["id"] == before["id"] and after["allocation"]["host"] == before["allocation"]["host"]
    assert inside(container_of(after), "cat", "/home/jovyan/note") == "kept\n"
    expect_lab(page)
    expect(page.locator(".jp-DirListing-item", has_text=re.compile("^note"))).to_be_visible()


def test_signing_out_of_the_hub_signs_out_of_both(platform: Platform, customer: Customer, page: Page) -> None:
    for name in ("lab", "second"):
        customer.owner.run("env", "rm", name, "--yes")
    page.goto(f"{platform.hub_url}/hub/home")
    page.get_by_role("link", name="Sign out").click()
    keep_screenshot(page, "sign-out")
    page.get_by_role("button", name="Sign out").click()
    page.goto(platform.public_url)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    page.goto(f"{platform.hub_url}/hub/home")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    fill_sign_in(page, customer.owner)
    page.wait_for_url(f"{platform.hub_url}/hub/home")
