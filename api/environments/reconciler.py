"""Brings environments to what is desired of them, through the Hub and the hosts: a loop in the controller.

Slow work (the Hub, hosts) runs in threads with no transaction open. Every effect may be repeated, and is recorded after
it was done, so that a crash in between repeats it. What fails is tried again with a bounded back-off, for ever: the
Hub being down loses nothing.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from api.db import Database
from api.environments import recording, steps
from api.environments.hub_client import Hub, HubError, SpawnFailed
from api.environments.steps import Step, Work, decide, unsettled
from api.errors import ApiError, Unavailable
from api.hostlink import Hosts
from api.settings import Settings
from scheduler.states import AllocationState

WORKERS = 32
DELETIONS = 8  # of the workers at most: they wait for hosts, and a host that hangs keeps each for a minute
CHECK_EVERY_S = 2.0
STALE_SERVER_AFTER_S = 1.0
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 5.0
MAX_SPAWNS = 3
VOLUME_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Action:
    step: Step
    done: Future[None]


@dataclass(slots=True)
class _Progress:
    """What this process remembers of an environment; losing it costs a repeated call at most."""

    due_s: float = 0.0
    failures: int = 0  # in a row, of any kind
    spawns: int = 0  # starts that came to nothing, of the allocation below
    allocation_id: int | None = None
    stale_seen: bool = False
    stop_told: bool = False
    step: Step = Step.NOTHING  # the last one; a new one does not wait for the back-off of another


class EnvironmentReconciler:
    """One per controller. `run_once` is called by one thread; it starts work and does not wait for it."""

    def __init__(self, database: Database, settings: Settings, hub: Hub, hosts: Hosts) -> None:
        self._database = database
        self._settings = settings
        self._hub = hub
        self._hosts = hosts
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="environments")
        self._running: dict[int, _Action] = {}
        self._progress: dict[int, _Progress] = {}
        self._after = 0  # where the next look begins: what never settles must not keep the rest from its turn
        self._actions: Mapping[Step, Callable[[Work, _Progress], None]] = {
            Step.START: self._start,
            Step.CHECK: self._check,
            Step.WIND_DOWN: self._wind_down,
            Step.TELL_STOP: self._tell_stop,
            Step.FINISH: self._finish,
            Step.DELETE: self._delete,
        }

    def run_once(self) -> int:
        """Start what there is to do and is due; how many actions that were."""
        self._running = {key: action for key, action in self._running.items() if not action.done.done()}
        started = 0
        for work, progress in self._look():
            step = decide(desired=work.desired, observed=work.observed, allocation_state=work.allocation_state)
            if self._is_due(step, work, progress):
                progress.step = step
                done = self._pool.submit(self._run, step, work, progress)
                self._running[work.environment_id] = _Action(step, done)
                started += 1
        return started

    def _look(self) -> list[tuple[Work, _Progress]]:
        """The next batch, with what fails time and again last: calls to a host that hangs take workers for long."""
        with self._database.session() as session:
            works = unsettled(session, after=self._after)
        known = {work.environment_id for work in works}
        through = works[-1].environment_id if len(works) == steps.BATCH else None
        for environment_id in self._progress.keys() - known - self._running.keys():
            if self._after < environment_id and (through is None or environment_id < through):
                del self._progress[environment_id]
        self._after = through or 0
        found = [(work, self._progress_of(work)) for work in works]
        return sorted(found, key=lambda pair: pair[1].failures)

    def _is_due(self, step: Step, work: Work, progress: _Progress) -> bool:
        if step is Step.NOTHING or work.environment_id in self._running or len(self._running) >= WORKERS:
            return False
        if step is Step.DELETE and sum(action.step is step for action in self._running.values()) >= DELETIONS:
            return False
        if step is Step.TELL_STOP and progress.stop_told:
            return False  # the scheduling loop and the host have the word
        return progress.step is not step or progress.due_s <= time.monotonic()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait for the actions that are running; whether all have ended."""
        return not wait([action.done for action in self._running.values()], timeout=timeout_s).not_done

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _progress_of(self, work: Work) -> _Progress:
        progress = self._progress.setdefault(work.environment_id, _Progress(allocation_id=work.allocation_id))
        if progress.allocation_id != work.allocation_id:
            progress = self._progress[work.environment_id] = _Progress(allocation_id=work.allocation_id)
        return progress

    def _run(self, step: Step, work: Work, progress: _Progress) -> None:
        try:
            self._actions[step](work, progress)
            progress.failures = 0
        except (HubError, Unavailable, ApiError) as error:
            self._back_off(progress)
            _log.warning("environment %s: %s failed, trying again: %s", work.uid, step, error)
        except Exception:  # one environment must not stop the others
            self._back_off(progress)
            _log.exception("environment %s: %s failed, trying again", work.uid, step)

    def _back_off(self, progress: _Progress) -> None:
        pause_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(progress.failures, 10))
        progress.failures += 1
        progress.due_s = time.monotonic() + pause_s

    def _start(self, work: Work, progress: _Progress) -> None:
        try:
            accepted = self._hub.start_server(work.username, work.name)
        except SpawnFailed as error:
            self._count_spawn(work, progress, str(error))
            raise
        if accepted:
            self._database.transact(partial(recording.record_started, work=work))
            progress.stale_seen = False
            progress.due_s = time.monotonic() + CHECK_EVERY_S
        elif work.allocation_state is AllocationState.PLACING or self._spawning(work):
            progress.due_s = time.monotonic() + CHECK_EVERY_S  # on its way: somebody at the Hub was faster
        elif progress.stale_seen:
            # Still there, though nothing of this allocation runs: an earlier start's, whose end the Hub has missed.
            self._hub.stop_server(work.username, work.name, remove=False)
            progress.due_s = time.monotonic() + FIRST_BACKOFF_S
        else:
            progress.stale_seen = True
            progress.due_s = time.monotonic() + STALE_SERVER_AFTER_S

    def _spawning(self, work: Work) -> bool:
        server = self._hub.server(work.username, work.name)
        return server is not None and server.pending == "spawn"

    def _check(self, work: Work, progress: _Progress) -> None:
        """A server that the Hub has given up is started again, a bounded number of times."""
        server = self._hub.server(work.username, work.name)
        progress.due_s = time.monotonic() + CHECK_EVERY_S
        if server is not None and server.alive:
            if server.ready:
                self._database.transact(partial(recording.record_ready, work=work))
            return
        if self._count_spawn(work, progress, "the Hub could not start its server"):
            self._hub.start_server(work.username, work.name)

    def _count_spawn(self, work: Work, progress: _Progress, error: str) -> bool:
        """Whether it may be tried again; if not, the environment has failed."""
        progress.spawns += 1
        if progress.spawns < MAX_SPAWNS:
            return True
        self._database.transact(partial(recording.record_failure, work=work, error=error))
        return False

    def _wind_down(self, work: Work, progress: _Progress) -> None:
        self._database.transact(partial(recording.wind_down, work=work))

    def _tell_stop(self, work: Work, progress: _Progress) -> None:
        self._database.transact(partial(recording.record_stopping, work=work))
        self._hub.stop_server(work.username, work.name, remove=False)
        progress.stop_told = True

    def _finish(self, work: Work, progress: _Progress) -> None:
        """The GPUs are free. The Hub is told, but not waited for: a start later ends what it has missed."""
        ended = self._database.transact(partial(recording.record_ended, work=work, settings=self._settings))
        if ended and not progress.stop_told:
            self._hub.stop_server(work.username, work.name, remove=False)

    def _delete(self, work: Work, progress: _Progress) -> None:
        host_uid = self._database.transact(partial(recording.volume_host, work=work))
        if host_uid is not None:
            body = {"volume": f"rg-home-{work.uid}"}
            status, answer = self._hosts.call(host_uid, "delete_volume", body, timeout_s=VOLUME_TIMEOUT_S)
            if status not in (200, 204, 404):
                raise Unavailable(f"its volume could not be deleted: {status} {answer}")
        self._hub.stop_server(work.username, work.name, remove=True)
        self._database.transact(partial(recording.record_deleted, work=work))
