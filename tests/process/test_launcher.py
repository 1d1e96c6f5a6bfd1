"""The launcher's supervision on real processes: restarts, a killed supervisor, two installations side by side."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deploy import doctor, health
from deploy.hub_proxy import ensure_proxy
from deploy.instance import Instance, load
from deploy.leftovers import end_everything, end_leftovers
from deploy.ports import conflicts
from deploy.processes import instance_processes
from deploy.programs import DATABASE, HUB_DATABASE, embedded_postgres, hub_proxy_program, postgres_program
from deploy.progress import StepError
from deploy.secrets import ensure_secrets
from deploy.stop import stop_everything
from deploy.supervisor import Program, Supervisor
from tests.ports import free_port
from tests.waiting import wait_for

PARTS = ("postgres", "proxy")


def small_installation(data: Path) -> Instance:
    """PostgreSQL and the Hub's proxy under a supervisor: two programs that need nothing else."""
    data.mkdir()
    ports = {name: free_port() for name in ("port", "internal_port", "hub_port", "hub_api_port", "proxy_api_port")}
    instance = replace(load(data, **ports), address="127.0.0.1", ray_address="127.0.0.1:9")
    for directory in (instance.logs, instance.run, instance.hosts, instance.hub):
        directory.mkdir()
    data.chmod(0o711)
    instance.save()
    ensure_secrets(instance.secrets)
    server = embedded_postgres(instance)
    assert server is not None
    server.initialise()
    server.prepare()
    Supervisor(instance).write([postgres_program(instance, server), hub_proxy_program(instance)])
    return instance


def start(instance: Instance) -> Supervisor:
    supervisor = Supervisor(instance)
    supervisor.ensure_running()
    for name in PARTS:
        supervisor.start(name)
    wait_for(lambda: all_answer(instance), timeout_s=30, what="PostgreSQL and the proxy")
    return supervisor


def all_answer(instance: Instance) -> bool:
    server = embedded_postgres(instance)
    return server is not None and server.answers() and health.ask("proxy", lambda: health.proxy(instance)).healthy


@pytest.fixture(scope="module", autouse=True)
def proxy_installed() -> None:
    ensure_proxy()


@pytest.fixture
def installations(scratch: Path, request: pytest.FixtureRequest) -> Iterator[list[Instance]]:
    made: list[Instance] = []
    for letter in "ab":
        made.append(small_installation(scratch / f"l{letter}{abs(hash(request.node.name)) % 10_000}"))
    yield made
    for instance in made:
        with contextlib.suppress(StepError):
            Supervisor(instance).shutdown()
        end_leftovers(instance)
        end_everything(instance)
        assert instance_processes(instance.data) == []


def test_what_is_killed_is_started_again(installations: list[Instance]) -> None:
    instance = installations[0]
    supervisor = start(instance)
    for name in PARTS:
        pid = supervisor.pids()[name]
        os.kill(pid, signal.SIGKILL)
        wait_for(
            lambda name=name, pid=pid: supervisor.pids().get(name, pid) != pid, timeout_s=20, what=f"another {name}"
        )
        wait_for(lambda: all_answer(instance), timeout_s=20, what=f"answers after {name} was killed")


def test_leftovers_of_a_killed_supervisor_are_ended_cleanly(installations: list[Instance]) -> None:
    instance, other = installations
    supervisor = start(instance)
    start(other)
    pid = int((instance.run / "supervisord.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not supervisor.answers(), timeout_s=10, what="the supervisor's end")
    assert all_answer(instance), "the programs outlive their supervisor"
    server = embedded_postgres(instance)
    assert server is not None

    assert end_leftovers(instance) == len(PARTS)
    assert instance_processes(instance.data) == []
    assert server.pid() is None, "shut down, not killed"
    assert all_answer(other), "the installation beside it was left alone"
    start(instance)


def test_down_ends_its_own_and_nothing_else(installations: list[Instance]) -> None:
    instance, other = installations
    start(instance)
    start(other)
    stop_everything(instance)
    assert instance_processes(instance.data) == []
    assert all_answer(other)
    stop_everything(instance)


def test_status_and_doctor_name_what_is_down_and_nothing_else(
    installations: list[Instance], capsys: pytest.CaptureFixture[str]
) -> None:
    instance = installations[0]
    supervisor = start(instance)
    server = embedded_postgres(instance)
    assert server is not None
    for name in (DATABASE, HUB_DATABASE):
        server.ensure_database(name)

    def healthy() -> set[str]:
        return {part.name for part in health.check_all(instance) if part.healthy}

    running = {"docker", "postgres", "postgres (hub)", "proxy"}
    assert healthy() == running
    supervisor.stop("proxy")
    assert healthy() == running - {"proxy"}
    supervisor.start("proxy")
    wait_for(lambda: healthy() == running, timeout_s=30, what="the proxy")
    supervisor.stop("postgres")
    assert healthy() == running - {"postgres", "postgres (hub)"}
    for part in health.check_all(instance):
        assert part.detail.strip(), f"{part.name} says why"

    assert not doctor.report(instance, installed=True)
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    wrong = [rest for first, rest in (line for line in lines if len(line) == 2) if first == "wrong"]
    for name in ("postgres", "api", "controller", "hub", "ray"):
        assert any(rest.startswith(f"{name} ") for rest in wrong), name
    assert not any(rest.startswith("proxy ") for rest in wrong)


def test_its_own_ports_are_no_conflict_and_another_installations_are(installations: list[Instance]) -> None:
    instance, other = installations
    start(instance)
    assert conflicts(instance) == []
    (found,) = conflicts(replace(other, hub_port=instance.hub_port))
    assert (found.port, found.option) == (instance.hub_port, "--hub-port")
    assert "node" in found.holder


def test_down_ends_what_a_killed_supervisor_has_left(installations: list[Instance]) -> None:
    instance = installations[0]
    supervisor = start(instance)
    os.kill(int((instance.run / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: not supervisor.answers(), timeout_s=10, what="the supervisor's end")
    stop_everything(instance)
    assert instance_processes(instance.data) == []


def test_a_changed_program_is_restarted_and_the_others_are_not(installations: list[Instance]) -> None:
    instance = installations[0]
    supervisor = start(instance)
    before = supervisor.pids()
    server = embedded_postgres(instance)
    assert server is not None
    changed = replace(instance, hub_port=free_port())
    supervisor.write([postgres_program(instance, server), hub_proxy_program(changed)])
    supervisor.ensure_running()
    supervisor.start("proxy")
    wait_for(lambda: "proxy" in supervisor.pids(), timeout_s=20, what="the proxy")
    assert supervisor.pids()["postgres"] == before["postgres"]
    assert supervisor.pids()["proxy"] != before["proxy"]


def test_values_reach_a_program_as_they_are(installations: list[Instance], tmp_path: Path) -> None:
    instance = installations[0]
    target = tmp_path / "said"
    value = 'a "b" c,d=%e \\;f'
    command = ["/bin/sh", "-c", f'printf "%s|%s" "$VALUE" "$1" > {target}; exec sleep 1000', "sh", "50% of it"]
    supervisor = Supervisor(instance)
    supervisor.write([Program("odd", command, {"VALUE": value, "REMOTEGPU_INSTANCE": str(instance.data)})])
    supervisor.ensure_running()
    supervisor.start("odd")
    assert (
        wait_for(lambda: target.exists() and target.read_text(), timeout_s=10, what="its output")
        == f"{value}|50% of it"
    )
    assert psutil.Process(supervisor.pids()["odd"]).environ()["REMOTEGPU_INSTANCE"] == str(instance.data)
