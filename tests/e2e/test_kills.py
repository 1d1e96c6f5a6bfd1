"""Each process of the platform dies once in mid-life: nothing is lost, and nothing happens twice.

One environment runs all the time, one waits in the queue behind another that fills a host.
"""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import text

from api.billing.verify import check
from api.db import Database
from deploy.health import call_daemon
from deploy.instance import Instance, load
from deploy.programs import daemon_name, database_url
from deploy.supervisor import Supervisor
from tests.e2e.commands import Customer, Person
from tests.e2e.conftest import Platform
from tests.e2e.tenant import TenantContainer, container_of
from tests.e2e.visitor import Visitor, sign_in
from tests.waiting import wait_for

Json = dict[str, Any]
_BACK_S = 180.0
_OVERLAPS = """
select count(*) from allocation_devices a join allocation_devices b on a.id < b.id and a.gpu_id = b.gpu_id
where a.period && b.period and int4range(a.milli_from, a.milli_to) && int4range(b.milli_from, b.milli_to)
"""


@dataclass(frozen=True, slots=True)
class World:
    """What must come through: `lab` runs, `queued` waits behind `wide`, and the owner is signed in everywhere."""

    platform: Platform
    owner: Person
    lab: Json
    queued: Json
    container: TenantContainer
    container_id: str
    started_at: str
    visitor: Visitor
    dead: set[int] = field(default_factory=set)

    @property
    def instance(self) -> Instance:
        return load(self.platform.data)

    @property
    def host(self) -> str:
        return str(self.lab["allocation"]["host"])

    def pids(self) -> dict[str, int]:
        return Supervisor(self.instance).pids()

    def raylet(self) -> int | None:
        pid = call_daemon(self.instance.hosts / self.host / "daemon.sock", "health", {})["raylet"]["pid"]
        return int(pid) if pid else None

    def agent(self) -> int | None:
        """The agent actor of the environment's host."""
        raylet = self.raylet()
        workers = psutil.Process(raylet).children() if raylet else []
        return next((worker.pid for worker in workers if worker.name().startswith("ray::Agent")), None)

    def show(self, name: str) -> Json:
        shown: Json = self.owner.json("env", "show", name)
        return shown

    def kill(self, *pids: int) -> None:
        for pid in pids:
            self.dead.add(pid)
            os.kill(pid, signal.SIGKILL)


def start(owner: Person, name: str, gpus: int, *, wait: bool = True) -> Json:
    waiting = ("--wait",) if wait else ()
    created: Json = owner.json(
        "env", "create", "--gpus", str(gpus), "--gpu-model", "A100", "--image", "base", "--name", name, *waiting
    )
    return created


@pytest.fixture(scope="module")
def world(platform: Platform, lovelace: Customer) -> Iterator[World]:
    owner = lovelace.owner
    names = ["lab", "wide", "queued"]
    try:
        lab, _ = start(owner, "lab", 1), start(owner, "wide", 4)
        queued = start(owner, "queued", 4, wait=False)
        container = container_of(lab)
        seen = container.inspect()
        with sign_in(platform, owner) as visitor:
            yield World(platform, owner, lab, queued, container, seen["Id"], seen["State"]["StartedAt"], visitor)
    finally:
        for name in names:
            owner.run("env", "stop", name, "--wait", check=False)
            owner.run("env", "rm", name, "--yes", check=False)


def supervised(name: str, world: World) -> list[int]:
    return [world.pids()[name]]


def daemon(world: World) -> list[int]:
    return [world.pids()[daemon_name(world.host)]]


def whole_head(world: World) -> list[int]:
    """`ray start --block` and everything below it."""
    top = psutil.Process(world.pids()["ray"])
    return [top.pid, *(child.pid for child in top.children(recursive=True))]


def raylet(world: World) -> list[int]:
    return [wait_for(world.raylet, timeout_s=_BACK_S, what="a raylet")]


def agent(world: World) -> list[int]:
    return [wait_for(world.agent, timeout_s=_BACK_S, what="an agent")]


VICTIMS: dict[str, Callable[[World], list[int]]] = {
    "API": partial(supervised, "api"),
    "controller": partial(supervised, "controller"),
    "Hub": partial(supervised, "hub"),
    "Hub's proxy": partial(supervised, "proxy"),
    "PostgreSQL": partial(supervised, "postgres"),
    "host daemon": daemon,
    "agent": agent,
    "raylet": raylet,
    "Ray head": whole_head,
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_once(world: World, victim: str) -> None:
    world.kill(*VICTIMS[victim](world))
    wait_for(lambda: all_anew(world, victim), timeout_s=_BACK_S, every_s=0.5, what=f"another {victim}")
    wait_for(world.platform.healthy, timeout_s=_BACK_S, every_s=1, what=f"health after the {victim} was killed")
    nothing_lost(world)
    still_queued(world)


def test_supervisor_killed(world: World) -> None:
    """Its programs run on; the next `up` takes over."""
    before = Supervisor(world.instance)
    world.kill(int((world.instance.run / "supervisord.pid").read_text()))
    wait_for(lambda: not before.answers(), timeout_s=30, what="the supervisor's end")
    nothing_lost(world)
    world.platform.up()
    assert world.platform.healthy()
    nothing_lost(world)
    still_queued(world)


def all_anew(world: World, victim: str) -> bool:
    """Whether a process that was not killed has taken the victim's place."""
    try:
        return not world.dead & set(VICTIMS[victim](world))
    except (KeyError, OSError, httpx.HTTPError, psutil.Error):
        return False


def nothing_lost(world: World) -> None:
    """Container, JupyterLab and sign-ins are as they were; the books are right."""
    seen = container_of(world.lab).inspect()
    assert seen["State"]["Running"] and (seen["Id"], seen["State"]["StartedAt"]) == (
        world.container_id, world.started_at,
    )  # fmt: skip
    wait_for(lambda: jupyter_answers(world), timeout_s=_BACK_S, every_s=0.5, what="JupyterLab to answer again")
    shown = world.show("lab")
    assert (shown["observed"], shown["desired"], shown["allocation"]["id"]) == (
        "running", "running", world.lab["allocation"]["id"],
    )  # fmt: skip
    assert shown["allocation"]["devices"] == world.lab["allocation"]["devices"]
    assert world.owner.json("whoami")["username"] == world.owner.username
    # The Hub's first look into a database that has come back fails, and sends the visitor on to the sign-in once.
    wait_for(world.visitor.signed_in, timeout_s=30, what="the sign-ins to count again")
    assert_books(world.instance)
    assert len([line for line in world.platform.processes() if "api.server" in line]) == 1


def still_queued(world: World) -> None:
    queued = world.show("queued")
    assert (queued["observed"], queued["desired"], queued["wait"] is not None) == ("queued", "running", True)


def jupyter_answers(world: World) -> bool:
    try:
        answer = world.visitor.http.get(f"{world.lab['url']}api")
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and "version" in answer.text


def assert_books(instance: Instance) -> None:
    """The journal balances and every charge is what was proven; no device has two owners."""
    database = Database(database_url(instance), pool_size=1)
    try:
        with database.session() as session:
            assert check(session) == []
            assert session.scalar(text(_OVERLAPS)) == 0
    finally:
        database.close()
