"""Who gives way, who comes back, and what was reserved, on real containers."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.e2e.commands import Customer
from tests.e2e.containers import container_of, containers_of
from tests.waiting import wait_for

_WHOLE_HOST = ("--gpus", "4", "--gpu-model", "A100", "--cpus", "1", "--memory", "1GiB")
_ONE = ("--gpus", "1", "--gpu-model", "A100", "--cpus", "0.25", "--memory", "1GiB")


@pytest.fixture(scope="module")
def customer(lovelace: Customer) -> Iterator[Customer]:
    yield lovelace
    for environment in lovelace.owner.json("env", "list"):
        lovelace.owner.run("env", "rm", environment["name"], "--yes")


def _show(customer: Customer, name: str) -> dict[str, Any]:
    environment: dict[str, Any] = customer.owner.json("env", "show", name)
    return environment


def _observed(customer: Customer, name: str) -> str:
    return str(_show(customer, name)["observed"])


def test_a_preemptible_environment_gives_way_and_comes_back(customer: Customer) -> None:
    for name in ("spot-1", "spot-2"):
        customer.owner.run("env", "create", "--name", name, *_WHOLE_HOST, "--preemptible", "--wait")
    before = {name: container_of(_show(customer, name)) for name in ("spot-1", "spot-2")}

    customer.owner.run("env", "create", "--name", "urgent", *_WHOLE_HOST, "--priority", "100", "--wait")
    states = {name: _observed(customer, name) for name in before}
    (victim,) = [name for name, state in states.items() if state != "running"]
    (spared,) = before.keys() - {victim}
    assert containers_of(_show(customer, victim)) == []
    assert container_of(_show(customer, spared)) == before[spared], "no more than needed"

    waiting = wait_for(lambda: _queued(customer, victim), timeout_s=30, what="the victim's place in the queue")
    assert waiting["wait"]["code"] in {"bound_host_busy", "no_capacity"}
    assert "queued again" in waiting["last_error"]
    with customer.owner.rest() as rest:
        ended = rest.get("/customer/allocations", params={"end_reason": "preempted"}).json()["items"]
    assert len([one for one in ended if one["end_reason"] == "preempted"]) == 1

    customer.owner.run("env", "stop", "urgent", "--wait")
    wait_for(lambda: _observed(customer, victim) == "running", timeout_s=60, what="the victim's return")
    for name in before:
        customer.owner.run("env", "stop", name, "--wait")


def _queued(customer: Customer, name: str) -> dict[str, Any] | None:
    environment = _show(customer, name)
    return environment if environment["observed"] == "queued" and environment["wait"]["code"] != "queued" else None


def test_what_was_reserved_for_later_is_kept_and_starts_then(customer: Customer) -> None:
    reserved = customer.owner.json("reservation", "create", "--from", "+60s", "--for", "10m", *_WHOLE_HOST)
    (reservation,) = reserved["items"]
    starts_at = datetime.fromisoformat(reservation["starts_at"])
    customer.owner.run("env", "create", "--name", "booked", *_WHOLE_HOST, "--reservation", reservation["id"])

    waiting = wait_for(lambda: _queued(customer, "booked"), timeout_s=20, what="a reason to wait")
    assert (waiting["wait"]["code"], waiting["wait"]["eta_basis"]) == ("reservation", "reservation")
    assert datetime.fromisoformat(waiting["wait"]["eta"]) == starts_at
    listed = customer.owner.run("env", "list").stdout
    assert re.search(r"booked +queued.*reservation", listed), listed

    for number in range(5):  # more than the other host has: one too many for what is not reserved
        customer.owner.run("env", "create", "--name", f"any-{number}", *_ONE)
    devices = {device["uuid"] for device in reservation["devices"]}
    wait_for(lambda: len(_devices_held(customer, "any-")) == 4, timeout_s=60, what="as many as are not reserved")
    assert not devices & _devices_held(customer, "any-")
    assert {_observed(customer, f"any-{number}") for number in range(5)} > {"queued"}

    wait_for(lambda: _observed(customer, "booked") == "running", timeout_s=120, what="the reserved environment")
    with customer.owner.rest() as rest:
        allocation = rest.get(f"/customer/allocations/{_show(customer, 'booked')['allocation']['id']}").json()
    assert timedelta(0) <= datetime.fromisoformat(allocation["placed_at"]) - starts_at < timedelta(seconds=5)
    assert _devices_held(customer, "booked") == devices


def _devices_held(customer: Customer, prefix: str) -> set[str]:
    return {
        device["uuid"]
        for environment in customer.owner.json("env", "list")
        if environment["name"].startswith(prefix) and environment["allocation"]
        for device in environment["allocation"]["devices"]
    }
