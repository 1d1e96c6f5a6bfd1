"""`remotegpud down`: everything of this installation ends, its data stays.

The containers go first, while daemons and API still run, so that their last seconds are metered and billed. PostgreSQL
goes last of what uses data.
"""

import contextlib
import http.client

from docker.errors import DockerException

from deploy.engine import Engine, forget_started, started_by_us
from deploy.health import UnhealthyError, call_daemon
from deploy.instance import Instance
from deploy.leftovers import end_everything, end_leftovers, end_raylets
from deploy.machine import engine_containers
from deploy.processes import command_line, instance_processes, wait_until
from deploy.programs import daemon_name, embedded_postgres
from deploy.progress import StepError, step
from deploy.remains import Remains
from deploy.supervisor import Supervisor

_SHIPPED_S = 8.0
_ENGINE = "docker"


def stop_everything(instance: Instance) -> None:
    """End every process, container, network and firewall table of the installation.

    Raises:
        StepError: something is left; the message names it.
    """
    supervisor = Supervisor(instance)
    engine = Engine(instance.docker_host)
    remains = Remains(instance)
    _stop(supervisor, "JupyterHub and its proxy", ["hub", "proxy"])
    if engine.version() is not None:
        with step("tenants' containers") as current:
            current.note = f"{remains.remove_containers(engine)} removed"
            _await_shipping(instance)
    if not supervisor.answers():
        # Daemons that run on without it would make their networks and tables again.
        with step("programs whose supervisor is gone") as current:
            current.note = f"{end_leftovers(instance)} ended"
    _stop(supervisor, "controller, host daemons", ["controller", *map(daemon_name, instance.host_names())])
    with step("hosts' raylets") as current:
        current.note = f"{end_raylets(instance)} ended"
    _stop(supervisor, "API, Ray head", ["api", "ray"])
    if engine.version() is not None:
        with step("networks and firewall") as current:
            # A container that a daemon started in the last moment is found here.
            remains.remove_containers(engine)
            current.note = f"{remains.remove_networks(engine)} networks, {remains.remove_tables()} tables removed"
    _stop_database(instance, supervisor)
    _stop_engine(instance, supervisor, engine)
    with step("left-over processes") as current:
        supervisor.shutdown()
        current.note = f"{end_everything(instance)} ended"
    _check_nothing_left(instance, engine, remains)


def _stop(supervisor: Supervisor, title: str, names: list[str]) -> None:
    states = supervisor.states()
    running = [name for name in names if states.get(name) not in (None, "STOPPED", "EXITED")]
    if not running:
        return
    with step(title):
        supervisor.stop(*running)


def _await_shipping(instance: Instance) -> None:
    """Give the agents a moment to ship what was metered; what is not shipped waits in the spool for the next `up`."""

    def shipped() -> bool:
        backlog = 0
        for name in instance.host_names():
            with contextlib.suppress(OSError, http.client.HTTPException, UnhealthyError, ValueError, KeyError):
                backlog += call_daemon(instance.hosts / name / "daemon.sock", "health", {})["spool_backlog"]
        return backlog == 0

    wait_until(shipped, timeout_s=_SHIPPED_S, interval_s=0.2)


def _stop_database(instance: Instance, supervisor: Supervisor) -> None:
    server = embedded_postgres(instance)
    if server is None or server.pid() is None:
        return
    with step("PostgreSQL"):
        supervisor.stop("postgres")
        server.stop()


def _stop_engine(instance: Instance, supervisor: Supervisor, engine: Engine) -> None:
    """End the engine that we started, unless it runs containers of others."""
    if not started_by_us(instance):
        return
    with step("Docker Engine") as current:
        others: list[str] = []
        with contextlib.suppress(DockerException, OSError):
            others = engine_containers(engine.client())
        if others:
            current.note = f"kept running: it runs {len(others)} containers that are not ours"
            return
        supervisor.stop(_ENGINE)
        forget_started(instance)


def _check_nothing_left(instance: Instance, engine: Engine, remains: Remains) -> None:
    left = [
        f"process {process.pid}: {' '.join(command_line(process))[:120]}"
        for process in instance_processes(instance.data)
    ]
    if engine.version() is not None:
        left += remains.found(engine)
    if left:
        raise StepError("left over, end it by hand and tell us:\n" + "\n".join(left))
