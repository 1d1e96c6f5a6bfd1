"""Each process of the platform dies once in mid-life: nothing is lost, nothing happens twice, nothing is left over.

One environment and one task run all the time, one environment waits in the queue behind another that fills a host.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.db import Database
from deploy.health import call_daemon
from deploy.instance import Instance, load
from deploy.programs import daemon_name, database_url
from deploy.supervisor import Supervisor
from node.daemon.engine import ALLOCATION_LABEL, HOST_LABEL
from tests.e2e.books import assert_books
from tests.e2e.commands import Customer, Person
from tests.e2e.conftest import Platform
from tests.e2e.tenant import TenantContainer, container_of, containers_of
from tests.e2e.visitor import Visitor, sign_in
from tests.waiting import wait_for

Json = dict[str, Any]
Run = tuple[str, str]  # a container's id, and when it was started
_STEADY = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.2; done"
_BACK_S = 180.0
_START_S = 240.0
_MICRO_PER_MS = 1000  # at the fixtures' price, one unit of currency per second


@dataclass(frozen=True, slots=True)
class World:
    """What must come through: `lab` and the task `steady` run, `queued` waits behind `wide`, and the owner is signed in
    everywhere."""

    platform: Platform
    owner: Person
    lab: Json
    queued: Json
    container: TenantContainer
    container_id: str
    started_at: str
    task_runs: Run
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


def stop(world: World, name: str) -> None:
    """Idempotent."""
    if world.show(name)["observed"] != "stopped":
        world.owner.run("env", "stop", name, "--wait")


@pytest.fixture(scope="module")
def world(platform: Platform, lovelace: Customer) -> Iterator[World]:
    owner = lovelace.owner
    names = ["lab", "wide", "queued"]
    try:
        lab, _ = start(owner, "lab", 1), start(owner, "wide", 4)
        container = container_of(lab)
        seen = container.inspect()
        size = ("--gpus", "1", "--cpus", "0.25", "--memory", "1GiB")
        owner.run("run", "--detach", "--name", "steady", *size, "--", "sh", "-c", _STEADY)
        wait_for(lambda: "3" in output(owner, "steady"), timeout_s=60, what="the task's output")
        queued = start(owner, "queued", 4, wait=False)  # from now on what has no time limit would overtake it
        with sign_in(platform, owner) as visitor:
            yield World(
                platform, owner, lab, queued, container, seen["Id"], seen["State"]["StartedAt"],
                run_of_task(owner, "steady"), visitor,
            )  # fmt: skip
    finally:
        owner.run("task", "cancel", "steady", check=False)
        for name in names:
            owner.run("env", "stop", name, "--wait", check=False)
            owner.run("env", "rm", name, "--yes", check=False)


def output(owner: Person, task: str) -> list[str]:
    return owner.run("task", "logs", task).stdout.splitlines()


def run_of_task(owner: Person, name: str) -> Run:
    """Of the one container there is of a task."""
    prefix = f"rg-task-{owner.json('task', 'show', name)['id']}"
    command = ["docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", f"name={prefix}"]
    (only,) = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return only, str(TenantContainer(only).inspect()["State"]["StartedAt"])


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
    task = world.owner.json("task", "show", "steady")
    assert (task["state"], task["attempts"], run_of_task(world.owner, "steady")) == ("running", 1, world.task_runs)
    assert world.owner.json("whoami")["username"] == world.owner.username
    assert world.visitor.signed_in()
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


def rows(instance: Instance, query: str, **values: object) -> list[Any]:
    database = Database(database_url(instance), pool_size=1)
    try:
        with database.session() as session:
            return _rows(session, query, values)
    finally:
        database.close()


def _rows(session: Session, query: str, values: dict[str, object]) -> list[Any]:
    return list(session.execute(text(query), values).all())


_STATE = """
select a.state, e.observed from allocations a join environments e on e.allocation_id = a.id
where e.name = :name order by a.id desc limit 1
"""


@pytest.mark.parametrize(
    ("victim", "moments"),
    [
        ("controller", {("placing", "queued"), ("active", "queued"), ("active", "starting")}),
        ("Hub", {("active", "starting")}),
        ("host daemon", {("active", "starting")}),
        ("API", {("active", "starting")}),
    ],
)
def test_killed_between_effect_and_record(world: World, victim: str, moments: set[tuple[str, str]]) -> None:
    """While an environment starts on the same host: it comes up all the same, once, and its GPU is free after it."""
    stop(world, "queued")  # nobody may overtake who waits
    name = f"mid-{victim.split()[0].lower()}"
    victims = VICTIMS[victim](world)
    start(world.owner, name, 1, wait=False)
    try:
        wait_for(
            lambda: moments & set(map(tuple, rows(world.instance, _STATE, name=name))),
            timeout_s=_START_S, every_s=0.02, what=f"{name} to be on its way",
        )  # fmt: skip
        world.kill(*victims)
        wait_for(world.platform.healthy, timeout_s=_BACK_S, every_s=1, what=f"health after the {victim} was killed")
        running = wait_for(
            lambda: (shown := world.show(name))["observed"] == "running" and shown,
            timeout_s=_START_S, every_s=1, what=f"{name} to run",
        )  # fmt: skip
        assert len(containers_of(running)) == 1
        nothing_lost(world)
    finally:
        world.owner.run("env", "stop", name, "--wait", check=False)
        world.owner.run("env", "rm", name, "--yes", check=False)
    assert containers_of(running) == []


def test_the_task_ran_once_and_none_of_its_output_is_lost(world: World) -> None:
    world.owner.run("task", "cancel", "steady")
    ended = wait_for(
        lambda: (task := world.owner.json("task", "show", "steady"))["state"] == "cancelled" and task,
        timeout_s=60, what="the task's end",
    )  # fmt: skip
    (attempt,) = ended["attempt_list"]
    assert attempt["end"] == "cancelled"
    numbers = output(world.owner, "steady")
    assert len(numbers) > 100
    assert numbers == [str(number) for number in range(len(numbers))]


def test_the_bill_is_the_run_time_over_all_of_it(world: World) -> None:
    """After the last stop: usage without overlap or gap, a bill that is exactly that, and nothing left anywhere."""
    for name in ("queued", "lab", "wide"):
        stop(world, name)
    wait_for(
        lambda: world.owner.json("bill")["balance"]["held_micro"] == 0, timeout_s=60, every_s=1, what="settled holds"
    )
    usage = [entry for entry in world.owner.json("usage") if entry["allocation_id"] == world.lab["allocation"]["id"]]
    assert len(usage) == 1, "one interval without a gap, over every kill"
    lines = world.owner.json("bill")["statement"]["lines"]
    billed = [line for line in lines if line["allocation_id"] == world.lab["allocation"]["id"]]
    assert sum(line["duration_ms"] for line in billed) == usage[0]["duration_ms"]
    assert sum(line["amount_micro"] for line in billed) == usage[0]["duration_ms"] * _MICRO_PER_MS
    assert_books(world.instance)
    nothing_left(world)


def nothing_left(world: World) -> None:
    instance = world.instance
    for name in instance.host_names():
        leases = partial(call_daemon, instance.hosts / name / "daemon.sock", "health", {})
        wait_for(lambda leases=leases: leases()["leases"] == 0, timeout_s=60, what=f"no lease on {name}")
    hosts = [uid for (uid,) in rows(instance, "select uid::text from hosts")]
    for uid in hosts:
        done = subprocess.run(
            [
                "docker", "ps", "--all", "--quiet", "--filter", f"label={HOST_LABEL}={uid}",
                "--filter", f"label={ALLOCATION_LABEL}",
            ],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == ""
    assert rows(instance, "select 1 from allocation_devices where upper_inf(period)") == []
    assert rows(instance, "select 1 from allocations where state <> 'released'") == []
    # Idle groups are kept for the next allocation for half a minute.
    wait_for(lambda: living_groups(instance) == [], timeout_s=120, every_s=1, what="the placement groups' end")
    assert rows(instance, "select name from placement_groups where state <> 'removed'") == []


def living_groups(instance: Instance) -> list[Json]:
    """The placement groups that Ray itself has."""
    token = (instance.secrets / "ray_token").read_text().strip()
    answer = httpx.get(
        f"http://127.0.0.1:{instance.ray_dashboard_port}/api/v0/placement_groups",
        headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False,
    )  # fmt: skip
    groups: list[Json] = answer.raise_for_status().json()["data"]["result"]["result"]
    return [group for group in groups if group["state"] != "REMOVED"]
