"""What the leading controller does: the scheduling loop, and the sweeps beside it."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select

from api.allocations.expiry import end_expired
from api.allocations.leadership import Leadership
from api.allocations.store import PostgresStore
from api.allocations.tables import Allocation, PlacementGroup
from api.billing.book_walk import BookWalk
from api.billing.chain.sealer import Sealer
from api.billing.promotions import lapse
from api.billing.settlement import sweep_holds
from api.billing.unpaid import end_unpaid
from api.billing.warnings import warn
from api.clock import utc_now
from api.db import Database
from api.environments.hub_client import Hub
from api.environments.reconciler import EnvironmentReconciler
from api.machines.liveness import sweep
from api.settings import Settings
from api.tasks.settling import settle
from api.volumes.deletion import VolumeDeletion
from cluster import metrics
from cluster.agents import Agents
from cluster.fabric import RayFabric, remove_orphans
from cluster.hosts import AgentHosts
from cluster.membership import Membership
from cluster.plan_desk import PlanDesk
from cluster.recordings import RecordingFiles
from cluster.scheduling_settings import SchedulingSettings, make_engine, recorded
from cluster.wakeup import Wakeup
from scheduler.engine.engine import Engine
from scheduler.loop import Cycle, Scheduler
from scheduler.plan_protocol import PlanAnswer, PlanQuestion
from scheduler.ports import LostLeadershipError
from scheduler.recording import Recorder

log = logging.getLogger(__name__)

GROUP_PREFIX = "rg-"  # as api.allocations.groups names them

_TICK_S = 1.0
_PAUSE_S = 0.002  # a burst of changes makes one cycle, not one each
_EFFECT_THREADS = 16
_END_S = 8.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the leader works with."""

    database: Database
    settings: Settings
    scheduling: SchedulingSettings
    membership: Membership
    agents: Agents
    hub: Hub
    desk: PlanDesk


@dataclass(slots=True)
class _Duty:
    name: str
    every_s: float
    act: Callable[[], object]
    due_at: float = 0.0


class EffectPool:
    """A bounded pool for effects; what has not begun at the end is found again by the next leader."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="effect")
        self._futures: set[Future[None]] = set()
        self._lock = threading.Lock()

    def spawn(self, effect: Callable[[], None]) -> None:
        future = self._pool.submit(effect)
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._done)

    def close(self, *, timeout_s: float) -> None:
        """Start nothing more, and wait a bounded time for what runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            running = list(self._futures)
        wait(running, timeout=timeout_s)

    def _done(self, future: Future[None]) -> None:
        with self._lock:
            self._futures.discard(future)


@dataclass(slots=True)
class Leader:
    """One term of leadership. `run` returns when told to stop, and raises when the leadership is lost."""

    parts: Parts
    leadership: Leadership
    wakeup: Wakeup
    stopped: threading.Event
    _pool: EffectPool = field(default_factory=lambda: EffectPool(_EFFECT_THREADS))
    _engine: Engine = field(init=False)
    _recordings: RecordingFiles | None = field(init=False)
    _recorder: Recorder | None = field(init=False)
    _deciding: threading.Lock = field(default_factory=threading.Lock)  # the engine belongs to one thread at a time
    _books: BookWalk = field(default_factory=BookWalk)
    _rest_s: float = _TICK_S  # until the next cycle, if nothing happens

    def __post_init__(self) -> None:
        packing = self.parts.scheduling.packing
        settings = self.parts.scheduling.engine_settings(self.parts.settings)
        self._engine = make_engine(settings, packing)
        directory = self.parts.settings.scheduler_recordings_dir
        self._recordings = None if directory is None else RecordingFiles(directory)
        self._recorder = None if self._recordings is None else Recorder(self._recordings, recorded(settings, packing))

    def run(self) -> None:
        """Act until stopped.

        Raises:
            LostLeadershipError: another one leads, or the connection that held the lock is gone.
        """
        parts = self.parts
        self._take_over()
        hosts = AgentHosts(parts.agents)
        reconciler = EnvironmentReconciler(parts.database, parts.settings, parts.hub, hosts)
        deletion = VolumeDeletion(parts.database, hosts)
        duties = self._duties(self._scheduler(), reconciler, deletion)
        metrics.LEADER.set(1)
        try:
            with parts.desk.open(self._what_if):
                while not self.stopped.is_set():
                    if not self.leadership.alive():
                        raise LostLeadershipError("the connection that held the leader's lock is gone")
                    self._run_due(duties)
                    self.stopped.wait(_PAUSE_S)
                    self.wakeup.wait(self._rest_s)
        finally:
            metrics.LEADER.set(0)
            self._pool.close(timeout_s=_END_S if self.stopped.is_set() else 0.0)
            if self._recordings is not None:
                self._recordings.close()

    def _take_over(self) -> None:
        """Groups of ours that no row names are left from a database that was put back: they hold devices for nobody."""
        query = select(PlacementGroup.name).where(PlacementGroup.state != "removed")
        with self.parts.database.session() as session:
            known = frozenset(session.scalars(query))
        removed = remove_orphans(known, prefix=GROUP_PREFIX)
        if removed:
            log.warning("removed %d placement groups that no row names", len(removed))

    def _scheduler(self) -> Scheduler:
        parts = self.parts
        return Scheduler(
            store=PostgresStore(parts.database, parts.settings, epoch=self.leadership.epoch),
            fabric=RayFabric(parts.agents, namespace=parts.settings.ray_namespace),
            decider=self._engine,
            clock=utc_now,
            spawn=self._pool.spawn,
            wake=self.wakeup.wake,
            recorder=self._recorder,
        )

    def _duties(self, scheduler: Scheduler, reconciler: EnvironmentReconciler, deletion: VolumeDeletion) -> list[_Duty]:
        return [
            _Duty("cycle", 0.0, lambda: self._cycle(scheduler)),
            _Duty("tasks", 0.0, self._settle_tasks),
            _Duty("environments", 0.0, reconciler.run_once),
            _Duty("volumes", 1.0, deletion.run_once),
            _Duty("agents", 1.0, self.parts.agents.ensure),
            _Duty("liveness", 1.0, self._sweep_hosts),
            _Duty("time limits", 1.0, lambda: self.parts.database.transact(lambda s: end_expired(s, utc_now()))),
            _Duty("holds", 60.0, lambda: self.parts.database.transact(lambda s: sweep_holds(s, utc_now()))),
            _Duty("usage records", 1.0, Sealer(self.parts.database, self.parts.settings).run_once),
            _Duty("unpaid", 5.0, lambda: end_unpaid(self.parts.database, grace_s=self._grace_s, now=utc_now())),
            _Duty("balance warnings", 10.0, self._warn),
            _Duty("promotions", 10.0, lambda: self.parts.database.transact(lambda s: lapse(s, utc_now()))),
            _Duty("books", 5.0, self._check_books),
            _Duty("queue depth", 5.0, self._measure_queue),
        ]

    def _run_due(self, duties: list[_Duty]) -> None:
        for duty in duties:
            if duty.due_at > time.monotonic() or self.stopped.is_set():
                continue
            duty.due_at = time.monotonic() + duty.every_s
            try:
                duty.act()
            except LostLeadershipError:
                raise
            except Exception:  # one duty must not stop the others; each is tried again
                metrics.DUTY_FAILURES.labels(duty=duty.name).inc()
                log.exception("%s failed; tried again", duty.name)

    def _cycle(self, scheduler: Scheduler) -> None:
        self._rest_s = _TICK_S
        with metrics.CYCLE.time(), self._deciding:
            cycle = scheduler.cycle()
        self._rest_s = _rest(cycle, utc_now())
        metrics.count(cycle)

    def _settle_tasks(self) -> None:
        if settle(self.parts.database):
            self.wakeup.wake()

    def _what_if(self, question: PlanQuestion) -> PlanAnswer:
        with self._deciding:
            return self._engine.what_if(question.request, utc_now())

    def _sweep_hosts(self) -> None:
        alive = self.parts.membership.hosts
        metrics.HOSTS.set(len(alive))
        sweep(self.parts.database, self.parts.settings, ray_alive=alive, now=utc_now())

    @property
    def _grace_s(self) -> int:
        return self.parts.settings.stop_grace_s

    def _warn(self) -> None:
        self.parts.database.transact(lambda session: warn(session, grace_s=self._grace_s, now=utc_now()))

    def _check_books(self) -> None:
        for sentence in self.parts.database.transact(self._books.turn):
            log.error("the books are wrong: %s", sentence)
        metrics.BOOKS_WRONG.set(len(self._books.wrong))
        metrics.BOOKS_ROUNDS.set(self._books.rounds)

    def _measure_queue(self) -> None:
        query = select(func.count()).where(Allocation.waits())
        with self.parts.database.session() as session:
            metrics.QUEUE.set(session.execute(query).scalar_one())


def _rest(cycle: Cycle, now: datetime) -> float:
    """Seconds to wait for something to happen before the next cycle."""
    if cycle.unfinished:
        return 0.0
    if cycle.next_at is None:
        return _TICK_S
    return min(_TICK_S, max(0.0, (cycle.next_at - now).total_seconds()))
