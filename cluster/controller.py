"""The controller process: `python -m cluster.controller`. One leads, by a lock in PostgreSQL; any number stand by.

It never repairs a lost connection to Ray or a lost lock in place: it ends, and its supervisor starts it again in
seconds with nothing to forget, since everything it does is found again in the database.
"""

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from api.allocations.leadership import acquire, release
from api.db import Database
from api.environments.hub_client import HubClient
from api.settings import Settings
from cluster import logs
from cluster.agents import Agents
from cluster.collection import collect_rarely
from cluster.connection import RayUnavailableError, connect, disconnect
from cluster.hostlink import Hostlink
from cluster.leader import Leader, Parts
from cluster.membership import Membership, watch
from cluster.plan_desk import PlanDesk
from cluster.scheduling_settings import SchedulingSettings
from cluster.wakeup import Wakeup
from scheduler.ports import LostLeadershipError

log = logging.getLogger(__name__)

CHANNELS = ("allocations", "environments")
EXIT_RESTART = 75  # a temporary failure: the supervisor starts it again

_STARTUP_S = 60.0
_ELECTION_S = 0.5
_RAY_LOST_S = 8.0
_POOL = 30


def await_database(database: Database, *, timeout_s: float) -> None:
    """Wait for PostgreSQL and its schema.

    Raises:
        OperationalError: it did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    warned = False
    while True:
        try:
            with database.engine.connect() as connection:
                connection.execute(text("select 1 from leadership"))
        except Exception as error:  # no server, no database, or no table yet
            if time.monotonic() >= deadline:
                raise
            if not warned:
                log.warning("waiting up to %.0f s for the database: %s", timeout_s, str(error).splitlines()[0])
                warned = True
            time.sleep(0.5)
        else:
            return


def lead(parts: Parts, wakeup: Wakeup, stopped: threading.Event) -> None:
    """Stand by until the lock is free, then lead until stopped.

    Raises:
        LostLeadershipError, OperationalError
    """
    with parts.database.engine.connect() as connection:
        leadership = None
        while leadership is None and not stopped.is_set():
            leadership = acquire(connection)
            if leadership is None:
                stopped.wait(_ELECTION_S)
        if leadership is None:
            return
        log.info("leading, epoch %d", leadership.epoch)
        Leader(parts, leadership, wakeup, stopped).run()
        release(leadership)


def run(settings: Settings, scheduling: SchedulingSettings, agent_class: type[object], stopped: threading.Event) -> int:
    """The whole life of a controller; its exit code. `agent_class` is what it starts on every host."""
    database = Database(settings.database_url, pool_size=_POOL)
    await_database(database, timeout_s=_STARTUP_S)
    node_id = connect(
        settings.ray_address,
        namespace=settings.ray_namespace,
        token_file=settings.secrets_dir / "ray_token",
        timeout_s=_STARTUP_S,
    )
    collect_rarely()
    _stop_on_signals(stopped)  # again: Ray has put handlers of its own in their place
    membership = Membership(node_id)
    membership.start()
    watch(membership, limit_s=_RAY_LOST_S, on_loss=_ray_lost)
    agents = Agents(agent_class, membership, namespace=settings.ray_namespace)
    desk = PlanDesk()
    hostlink = Hostlink(agents, desk, settings.hostlink_socket)
    hostlink.start()
    wakeup = Wakeup(database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False), CHANNELS)
    wakeup.start()
    log.info("standing by at %s", settings.hostlink_socket)
    try:
        parts = Parts(database, settings, scheduling, membership, agents, HubClient(settings), desk)
        lead(parts, wakeup, stopped)
    except (LostLeadershipError, OperationalError) as error:
        log.error("no longer leading: %s", str(error).splitlines()[0])
        return EXIT_RESTART
    hostlink.stop()
    membership.stop()
    disconnect()
    return 0


def _stop_on_signals(stopped: threading.Event) -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _ray_lost() -> None:
    log.error("Ray has not answered for %.0f s: ending, to be started again", _RAY_LOST_S)
    _end(EXIT_RESTART)


def _end(code: int) -> None:
    """End now: threads that wait in Ray or for a host would hold an ordinary exit up, and may all be repeated."""
    logging.shutdown()
    os._exit(code)


def main(agent_class: type[object]) -> None:
    logs.configure()
    stopped = threading.Event()
    _stop_on_signals(stopped)
    try:
        code = run(Settings(), SchedulingSettings(), agent_class, stopped)
    except (RayUnavailableError, OperationalError) as error:
        log.error("could not start: %s", str(error).splitlines()[0])
        code = EXIT_RESTART
    except Exception:
        log.exception("the controller failed")
        code = 1
    sys.stderr.flush()
    _end(code)


if __name__ == "__main__":
    from node.agent import Agent

    main(Agent)
