"""What the administrator sees of machines, customers and allocations; and the Ray dashboard, which nobody else sees."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.browser import browsing, fill_sign_in, keep_screenshot, visit_hub
from tests.e2e.commands import Customer, Person
from tests.e2e.conftest import Platform


@pytest.fixture(scope="module")
def environment(hopper: Customer) -> Iterator[dict[str, Any]]:
    arguments = ("--gpus", "2", "--gpu-model", "A100", "--cpus", "1", "--memory", "1GiB")
    yield hopper.owner.json("env", "create", "--name", "watched", *arguments, "--wait")
    hopper.owner.run("env", "rm", "watched", "--yes")


def test_machines_are_seen_with_gpus_readings_and_leases(
    operator: Person, hopper: Customer, environment: dict[str, Any]
) -> None:
    machines = {m["name"]: m for m in operator.json("admin", "machine", "list")}
    assert sorted(machines) == ["sim-1", "sim-2"]
    for machine in machines.values():
        assert (machine["device_status"], machine["admin_state"]) == ("online", "available")
        assert machine["simulated"] and len(machine["gpus"]) == 4
        for gpu in machine["gpus"]:
            assert gpu["simulated"] and gpu["model"] == "A100-80GB" and gpu["healthy"]
            age = datetime.now(UTC) - datetime.fromisoformat(gpu["reading_at"])
            assert age < timedelta(seconds=30), "a live reading"
            assert gpu["reading"]["simulated"] and gpu["reading"]["power_mw"] is None, "simulated: no invented figures"
    host = machines[environment["allocation"]["host"]]
    (lease,) = [found for found in host["leases"] if found["allocation_id"] == environment["allocation"]["id"]]
    assert (lease["customer"], lease["gpus"], lease["state"]) == (hopper.name, 2, "active")
    assert sorted(lease["gpu_uuids"]) == sorted(d["uuid"] for d in environment["allocation"]["devices"])
    with operator.rest() as rest:
        alone = rest.get(f"/admin/machines/{host['id']}").json()
    assert alone["allocation_status"] == "partial" and _lasting(alone["leases"]) == _lasting(host["leases"])
    printed = operator.run("admin", "machine", "list").stdout
    assert "sim-1" in printed and "online" in printed and "simulated" in printed
    shown = operator.run("admin", "machine", "show", host["name"]).stdout
    assert hopper.name in shown and environment["allocation"]["devices"][0]["uuid"] in shown


def _lasting(leases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without how long each may run, which is renewed all the time."""
    return [{name: value for name, value in lease.items() if name != "run_until"} for lease in leases]


def test_allocations_and_customers_are_seen(operator: Person, hopper: Customer, environment: dict[str, Any]) -> None:
    allocations = operator.json("admin", "allocations", "--state", "active")
    found = next(a for a in allocations if a["id"] == environment["allocation"]["id"])
    assert (found["customer"], found["host"]) == (hopper.name, environment["allocation"]["host"])
    assert sorted(d["uuid"] for d in found["devices"]) == sorted(
        d["uuid"] for d in environment["allocation"]["devices"]
    )
    with operator.rest() as rest:
        alone = rest.get(f"/admin/allocations/{found['id']}").json()
    assert [event["to_state"] for event in alone["events"]] == ["queued", "placing", "active"]
    printed = operator.run("admin", "allocations").stdout
    assert found["id"] in printed and hopper.name in printed
    assert hopper.name in operator.run("admin", "customer", "list").stdout


def test_customers_see_nothing_of_it(hopper: Customer) -> None:
    with hopper.owner.rest() as rest:
        for path in ("machines", "customers", "allocations", "users", "audit", "settings", "prices"):
            assert rest.get(f"/admin/{path}").status_code == 403, path
    assert hopper.owner.run("admin", "machine", "list", check=False).returncode == 3


def test_the_ray_dashboard_is_behind_the_administrators_sign_in(platform: Platform, operator: Person) -> None:
    with browsing() as context:
        page = context.new_page()
        page.goto(f"{platform.public_url}/ops/ray/")
        fill_sign_in(page, operator)
        expect(page.get_by_text("Cluster", exact=True).first).to_be_visible()
        page.get_by_text("Cluster", exact=True).first.click()
        expect(page.get_by_text("ALIVE").first).to_be_visible()
        keep_screenshot(page, "ray-dashboard")


def test_the_ray_dashboard_is_reached_no_other_way(platform: Platform, hopper: Customer) -> None:
    dashboard = f"{platform.public_url}/ops/ray/"
    stranger = httpx.get(dashboard, trust_env=False)
    assert stranger.status_code == 303 and stranger.headers["location"].startswith("/account/login")
    assert httpx.get(f"{dashboard}api/version", trust_env=False).status_code in (401, 403)
    with hopper.owner.rest() as rest:
        assert rest.get(dashboard).status_code in (303, 403), "a bearer token is no web session"
    with browsing() as context:
        page = context.new_page()
        visit_hub(page, platform.hub_url, hopper.owner)
        answer = page.goto(dashboard)
        assert answer is not None and answer.status == 403
        keep_screenshot(page, "ray-dashboard-refused")
    port = platform.settings["ray_dashboard_port"]
    bare = httpx.get(f"http://127.0.0.1:{port}/api/version", trust_env=False)
    assert bare.status_code == 401, "even on the machine itself, not without Ray's token"
    with pytest.raises(OSError):
        socket.create_connection((platform.settings["address"], port), timeout=5)
