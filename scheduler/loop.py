"""The scheduling loop: what the store says should happen, made to happen through the fabric, and recorded.

Everything here may be repeated after a crash at any point: effects have names and generations, and what was not
recorded is found again in the store (allocations in `placing` and `releasing`, groups to drop) and done again.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice

from scheduler.effects import Effects, Key, Result
from scheduler.executor import DROPS, Clock, Executor, Spawn
from scheduler.plan import Decider, Plan
from scheduler.ports import (
    Admitted,
    Changes,
    Dropped,
    Eviction,
    Fabric,
    Outcome,
    Placement,
    PlacementFailed,
    Store,
    WaitReason,
)
from scheduler.recording import Recorder
from scheduler.states import AllocationState
from scheduler.views import Held

MAX_RESULTS = 2500
"""Results of effects that are recorded in one transaction: more than a cycle brings about, so that none pile up."""
MAX_BATCH = 500
"""Placements that are admitted in one transaction."""
MAX_WAITS = 1000
"""Reasons that are written in one transaction."""
MAX_TURNS = 2
"""How often a cycle records what effects have come to, while they keep coming, before it decides."""
MAX_ROUNDS = 8
"""How often a cycle decides anew because the store refused something."""
REFUSED_PAUSE = timedelta(seconds=1)
"""If all that a cycle came to was refused, the next one need not come at once."""
WAITS_EVERY = timedelta(milliseconds=500)
WAITS_SHARE = 10
"""Reasons are for people: they are written only so often, and take at most a tenth of the loop's time."""
DROPS_EVERY = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=10)  # of anything here that is not done in every cycle


@dataclass(frozen=True, slots=True)
class Cycle:
    """What a cycle has done. `reasons` counts its decisions: "placed", "preempted", and the codes of waits.

    `unfinished`: there is more to do at once. `next_at`: something is due then though nothing else happens.
    """

    admitted: int = 0
    evicted: int = 0
    refused: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    unfinished: bool = False
    next_at: datetime | None = None


@dataclass(slots=True)
class _Tally:
    admitted: int = 0
    evicted: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unfinished: bool = False
    again_at: datetime | None = None


class Scheduler:
    """One leader's loop. Call `cycle` when something may have changed, and now and then in any case.

    `spawn` runs a callable beside the loop (a thread of a bounded pool); one that runs it at once will do. `wake` is
    called, by such a thread, when there is something to record. `clock` gives aware UTC datetimes.
    """

    def __init__(
        self,
        store: Store,
        fabric: Fabric,
        decider: Decider,
        clock: Clock,
        spawn: Spawn,
        *,
        wake: Callable[[], None] = lambda: None,
        recorder: Recorder | None = None,
    ) -> None:
        self.store = store
        self.decider = decider
        self.clock = clock
        self.recorder = recorder
        self.effects = Effects()
        self.executor = Executor(fabric, self.effects, clock, spawn, wake)
        self._wanted: dict[int, tuple[Key, AllocationState]] = {}  # what is in `placing` or `releasing`
        self._waits: dict[int, WaitReason] = {}  # to be written
        self._waits_due: datetime | None = None
        self._drops_due: datetime | None = None
        self._unsure = False  # the last cycle broke off: what the decider counts on may not be so

    def cycle(self) -> Cycle:
        """Take in what has changed, start what is due, decide, and have the decisions recorded.

        Raises:
            LostLeadershipError: another controller leads; this one must be given up.
        """
        tally = _Tally()
        now = self._catch_up()
        self._start_drops(now)
        self._decide(now, tally)
        self._write_waits(now)
        self._unsure = False
        return Cycle(
            tally.admitted,
            tally.evicted,
            tally.refused,
            tally.reasons,
            tally.unfinished or self.effects.unrecorded,
            self._next_at(tally.again_at),
        )

    def _catch_up(self) -> datetime:
        """Take in what has changed and start what is due, until nothing has ended meanwhile that is not recorded: what
        that frees is there to be decided on.
        """
        complete, self._unsure = self._unsure, True
        now = self._look(complete=complete)
        for _ in range(MAX_TURNS):
            if not self.effects.unrecorded:
                break
            self._record_results()
            now = self._look(complete=False)
        return now

    def _look(self, *, complete: bool) -> datetime:
        """Take in what has changed, and start what is due."""
        now = self.clock()
        wanted = complete or (self.recorder is not None and self.recorder.wants_complete)
        changes = self.store.changes(complete=wanted)
        if self.recorder is not None:
            self.recorder.updated(changes, now)
        self.decider.update(changes, now)
        self._note(changes)
        self._start_wanted(now)
        return now

    def _record_results(self) -> None:
        results = self.effects.results(MAX_RESULTS)
        outcomes = _outcomes(results)
        answers = self.store.record(outcomes) if outcomes else []
        now = self.clock()
        self.effects.settle(results, now)
        failed = {
            (outcome.allocation_id, outcome.generation)
            for outcome, answer in zip(outcomes, answers, strict=True)
            if answer and isinstance(outcome, PlacementFailed)
        }
        for result in results:
            # Recorded first: a leader of yesterday is refused there, before it could take back what runs by now.
            if result.take_back is not None and result.key in failed:
                self._take_back(result, now)

    def _take_back(self, result: Result, now: datetime) -> None:
        if result.take_back is not None and self.effects.begin(result.key, now):
            self.executor.take_back(result.take_back)

    def _note(self, changes: Changes) -> None:
        if changes.complete:
            for key, _ in self._wanted.values():
                self.executor.forget(key)
            self._wanted.clear()
            self._waits.clear()
        for held in changes.held:
            self._waits.pop(held.request.allocation_id, None)
            self._want(held.request.allocation_id, held)
        for request in changes.queued:
            self._want(request.allocation_id, None)
        for allocation_id in changes.gone:
            self._waits.pop(allocation_id, None)
            self._want(allocation_id, None)

    def _want(self, allocation_id: int, held: Held | None) -> None:
        """Note what an allocation needs from now on, and forget failures of what it needed before."""
        before = self._wanted.pop(allocation_id, None)
        if held is not None and held.state is not AllocationState.ACTIVE:
            self._wanted[allocation_id] = (allocation_id, held.generation), held.state
        if before is not None and before != self._wanted.get(allocation_id):
            self.executor.forget(before[0])

    def _start_wanted(self, now: datetime) -> None:
        """Start what is new, due again, or was left by another leader."""
        due: dict[AllocationState, list[int]] = {AllocationState.PLACING: [], AllocationState.RELEASING: []}
        room = self.effects.room
        for allocation_id, (key, state) in self._wanted.items():
            if not room:
                break
            if self.effects.may_begin(key, now):
                due[state].append(allocation_id)
                room -= 1
        if due[AllocationState.PLACING]:
            for admitted in self.store.placing(due[AllocationState.PLACING]):
                self._start_placing(admitted, now)
        if due[AllocationState.RELEASING]:
            for releasing in self.store.releasing(due[AllocationState.RELEASING]):
                if self.effects.begin((releasing.allocation_id, releasing.generation), now):
                    self.executor.release(releasing)

    def _start_placing(self, admitted: Admitted, now: datetime) -> None:
        if self.effects.begin((admitted.allocation_id, admitted.generation), now):
            self.executor.place(admitted)

    def _start_drops(self, now: datetime) -> None:
        if _reached(self._drops_due, now) and self.effects.may_begin(DROPS, now):
            self._drops_due = now + DROPS_EVERY
            groups = self.store.groups_to_drop()
            if groups and self.effects.begin(DROPS, now):
                self.executor.drop(groups)

    def _decide(self, now: datetime, tally: _Tally) -> None:
        """Decide and apply until the store takes everything: what it refuses may make room for something else."""
        for _ in range(MAX_ROUNDS):
            plan = self.decider.decide(now)
            self._evict(plan.evictions, tally)
            refused = self._admit(plan.placements, now, tally)
            self._explain(plan, now, tally)
            tally.unfinished = plan.unfinished or tally.evicted > 0
            if not refused:
                return
            if self.recorder is not None:
                self.recorder.refused(refused, now)
            self.decider.refused(refused)
        tally.unfinished = tally.admitted > 0 or tally.evicted > 0
        tally.again_at = now + REFUSED_PAUSE

    def _explain(self, plan: Plan, now: datetime, tally: _Tally) -> None:
        """What starts has been started by now: it does not wait for that."""
        waits = self.decider.reasons()
        if self.recorder is not None:
            self.recorder.decided(replace(plan, waits=waits), now)
        self._waits.update(waits)
        tally.reasons.update(reason.code for reason in waits.values())

    def _evict(self, evictions: Sequence[Eviction], tally: _Tally) -> None:
        if evictions:
            done = sum(self.store.evict(evictions))
            tally.evicted += done
            tally.reasons["preempted"] += done

    def _admit(self, placements: Sequence[Placement], now: datetime, tally: _Tally) -> dict[int, WaitReason]:
        """Have the placements taken, and start those; return the reasons that stand against the others."""
        refused: dict[int, WaitReason] = {}
        for start in range(0, len(placements), MAX_BATCH):
            batch = placements[start : start + MAX_BATCH]
            for placement, answer in zip(batch, self.store.admit(batch), strict=True):
                if isinstance(answer, WaitReason):
                    refused[placement.allocation_id] = answer
                    continue
                self._waits.pop(placement.allocation_id, None)
                tally.admitted += 1
                self._start_placing(answer, now)
        tally.refused += len(refused)
        tally.reasons["placed"] = tally.admitted
        return refused

    def _write_waits(self, now: datetime) -> None:
        if not self._waits or not _reached(self._waits_due, now):
            return
        written = dict(islice(self._waits.items(), MAX_WAITS))
        begun = self.clock()
        self.store.record_waits(written)
        for allocation_id in written:
            del self._waits[allocation_id]
        pause = max(WAITS_EVERY, WAITS_SHARE * (self.clock() - begun))
        self._waits_due = now + min(pause, LONGEST_PAUSE)

    def _next_at(self, again_at: datetime | None) -> datetime | None:
        times = [self.effects.retry_at, again_at]
        if self._waits:
            times.append(self._waits_due)
        return min((time for time in times if time is not None), default=None)


def _outcomes(results: Sequence[Result]) -> list[Outcome]:
    """All of them; a group that several placements on a host have dropped, once."""
    found: list[Outcome] = []
    dropped: set[str] = set()
    for result in results:
        for outcome in result.outcomes:
            if isinstance(outcome, Dropped):
                if outcome.group_name in dropped:
                    continue
                dropped.add(outcome.group_name)
            found.append(outcome)
    return found


def _reached(due: datetime | None, now: datetime) -> bool:
    """Whether it is time. If the clock was put back, it is too."""
    return due is None or now >= due or now < due - LONGEST_PAUSE
