"""The API is down for a whole minute while an environment runs: nothing of it shows in the container or in the bill."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.health import call_daemon
from deploy.instance import Instance, load
from deploy.supervisor import Supervisor
from tests.e2e.books import assert_books
from tests.e2e.commands import Customer, Person
from tests.e2e.conftest import Platform, new_customer
from tests.e2e.tenant import TenantContainer, container_of
from tests.waiting import wait_for

Json = dict[str, Any]
_OUTAGE_S = 60
_TICK_MS = 1000  # how often a host looks at what runs
_MICRO_PER_MS = 1000  # at the fixtures' price, one unit of currency per second


@pytest.fixture(scope="module")
def customer(operator: Person, profiles: Path) -> Customer:
    return new_customer(operator, profiles, name="Babbage & Sons", owner="charles")


@pytest.fixture
def lab(customer: Customer) -> Iterator[Json]:
    size = ("--gpus", "1", "--gpu-model", "A100", "--cpus", "1", "--memory", "1GiB")
    yield customer.owner.json("env", "create", "--name", "lab", *size, "--wait")
    customer.owner.run("env", "rm", "lab", "--yes", check=False)


def test_every_second_of_an_outage_is_billed_once(platform: Platform, customer: Customer, lab: Json) -> None:
    instance, since = load(platform.data), int(time.time()) - 60
    container = container_of(lab)
    before = identity(container)

    down_ms = now_ms()
    keep_down(instance)
    deadline = time.monotonic() + _OUTAGE_S
    wait_for(
        lambda: time.monotonic() > deadline or answers(platform) or identity(container) != before,
        timeout_s=2 * _OUTAGE_S, every_s=0.5, what="the end of the outage",
    )  # fmt: skip
    assert time.monotonic() > deadline, "it was down all the time, and what ran went on"
    assert backlog(instance, lab) >= _OUTAGE_S // 5 - 1, "the host keeps what it could not tell"
    Supervisor(instance).start("api")
    wait_for(lambda: answers(platform), timeout_s=60, what="the API to answer again")
    up_ms = now_ms()
    assert (customer.owner.json("env", "show", "lab")["observed"], identity(container)) == ("running", before)

    customer.owner.run("env", "stop", "lab", "--wait")
    started_ms, died_ms = lifetime_ms(container, since)
    wait_for(lambda: held_micro(customer) == 0, timeout_s=60, every_s=0.5, what="all use to be told, and settled")
    (proven,) = usage(customer, lab)  # one interval, without a gap
    assert started_ms < down_ms < up_ms < died_ms
    assert abs(milliseconds(proven["from"]) - started_ms) <= _TICK_MS
    assert abs(milliseconds(proven["to"]) - died_ms) <= _TICK_MS
    assert proven["duration_ms"] == milliseconds(proven["to"]) - milliseconds(proven["from"])
    assert_billed(customer, lab, proven["duration_ms"])
    assert backlog(instance, lab) == 0
    assert_books(instance)


def assert_billed(customer: Customer, lab: Json, duration_ms: int) -> None:
    """Statement and balance say that this was used, and nothing else."""
    bill = customer.owner.json("bill")
    (line,) = bill["statement"]["lines"]
    charged = duration_ms * _MICRO_PER_MS
    assert (line["allocation_id"], line["duration_ms"]) == (lab["allocation"]["id"], duration_ms)
    assert line["amount_micro"] == charged
    assert bill["balance"]["balance_micro"] == customer.balance * 10**6 - charged


def keep_down(instance: Instance) -> None:
    """Kill the API, as if its machine had died, and have nobody start it again."""
    supervisor = Supervisor(instance)
    os.kill(supervisor.pids()["api"], signal.SIGKILL)
    supervisor.stop("api")
    assert "api" not in supervisor.pids()


def answers(platform: Platform) -> bool:
    try:
        return httpx.get(f"{platform.public_url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def identity(container: TenantContainer) -> tuple[str, str, bool]:
    """Which run of which container it is, and whether it runs."""
    seen = container.inspect()
    return seen["Id"], seen["State"]["StartedAt"], seen["State"]["Running"]


def backlog(instance: Instance, lab: Json) -> int:
    """Windows of use that the environment's host has yet to tell."""
    health = call_daemon(instance.hosts / lab["allocation"]["host"] / "daemon.sock", "health", {})
    return int(health["spool_backlog"])


def usage(customer: Customer, lab: Json) -> list[Json]:
    found: list[Json] = customer.owner.json("usage")
    return [interval for interval in found if interval["allocation_id"] == lab["allocation"]["id"]]


def held_micro(customer: Customer) -> int:
    with customer.owner.rest() as rest:
        return int(rest.get("/customer/billing/balance").raise_for_status().json()["held_micro"])


def lifetime_ms(container: TenantContainer, since: int) -> tuple[int, int]:
    """When the engine says that it started and ended; it is gone by now. `since` is in seconds."""
    wanted = ("--filter", f"container={container.name}", "--filter", "event=start", "--filter", "event=die")
    until = str(int(time.time()) + 1)
    done = subprocess.run(
        ["docker", "events", "--since", str(since), "--until", until, *wanted, "--format", "{{json .}}"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["Action"] for event in events] == ["start", "die"]
    started_ms, died_ms = (event["timeNano"] // 10**6 for event in events)
    return started_ms, died_ms


def milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def now_ms() -> int:
    return round(time.time() * 1000)
