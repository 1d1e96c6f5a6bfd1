"""The scheduling loop: what the store says should happen, made to happen through the fabric, and recorded.

Everything here may be repeated after a crash at any point: effects have names and generations, and what was not
recorded is found again in the store (`placing`, `releasing`, groups to drop) and done again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from scheduler import waiting
from scheduler.effects import Effects, Key, delay_after
from scheduler.policy import Policy
from scheduler.ports import (
    Admitted,
    Fabric,
    FabricError,
    LostLeadershipError,
    QueuedRequest,
    Releasing,
    Snapshot,
    StaleGenerationError,
    Store,
    WaitReason,
)

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]
Spawn = Callable[[Callable[[], None]], None]

LIMIT_CODES = frozenset({"quota", "balance"})
_DROPS: Key = (-1, 0)  # the key of the effect that drops groups: no allocation has it


@dataclass(slots=True)
class Scheduler:
    """One leader's loop. Call `cycle` when something may have changed, and now and then in any case.

    `spawn` runs a callable beside the loop (a thread of a bounded pool); one that runs it at once will do. `clock`
    gives aware UTC datetimes.
    """

    store: Store
    fabric: Fabric
    policy: Policy
    clock: Clock
    spawn: Spawn
    effects: Effects = field(default_factory=Effects)

    def cycle(self) -> int:
        """Look once at everything, start what is to be started, and return how many allocations were admitted.

        Raises:
            LostLeadershipError: another controller leads; this one must be given up.
        """
        # Noted before the store is read: what ends in between is recorded there, but what was read may be older.
        busy = self.effects.running_keys()
        placing = self.store.unfinished_placements()
        releasing = self.store.releasing()
        self.effects.keep_only({_DROPS} | {_key(item) for item in placing} | {_key(item) for item in releasing})
        for unfinished in placing:
            self._start(_key(unfinished), partial(self._place, unfinished), busy)
        for ending in releasing:
            self._start(_key(ending), partial(self._release, ending), busy)
        if drops := self.store.groups_to_drop():
            self._start(_DROPS, partial(self._drop, drops), busy)
        return self._admit_queue()

    def _admit_queue(self) -> int:
        """Decide and admit until a decision meets no limit that it did not know: at most once per queued request."""
        held_back: dict[int, WaitReason] = {}
        snapshot = self.store.snapshot()
        admitted_total = 0
        for _ in range(len(snapshot.queue) + 1):
            decision = self.policy.decide(without(snapshot, held_back), self.clock())
            refused = {}
            for placement in decision.placements:
                answer = self.store.admit(placement)
                if isinstance(answer, WaitReason):
                    refused[placement.allocation_id] = answer
                    continue
                admitted_total += 1
                self._start(_key(answer), partial(self._place, answer))
            if not refused:
                self.store.record_waits({**decision.waits, **held_back})
                break
            held_back |= refused | held_back_too(snapshot, refused)
            snapshot = self.store.snapshot()
        return admitted_total

    def _start(self, key: Key, effect: Callable[[], None], busy: frozenset[Key] = frozenset()) -> None:
        if key in busy or not self.effects.begin(key, self.clock()):
            return

        def run() -> None:
            try:
                effect()
            except FabricError as error:
                log.info("allocation %s generation %s: %s; tried again later", *key, error)
                self.effects.fail(key, self.clock())
            except LostLeadershipError:
                # The next cycle meets it too, in the thread that can act on it.
                self.effects.fail(key, self.clock())
            except Exception:
                log.exception("allocation %s generation %s: effect failed; tried again later", *key)
                self.effects.fail(key, self.clock())
            else:
                self.effects.end(key)

        self.spawn(run)

    def _place(self, admitted: Admitted) -> None:
        allocation_id, generation = _key(admitted)
        try:
            self._drop(admitted.drop_groups)
            self.fabric.reserve(admitted.group_name, admitted.shares)
            for share in admitted.shares:
                self.fabric.grant(share.host_uid, admitted.lease)
        except FabricError as error:
            retry_at = self.clock() + delay_after(generation)
            # Recorded first: a leader of yesterday is refused here, before it could take back what runs by now.
            if self.store.unplace(allocation_id, generation=generation, reason=str(error), retry_at=retry_at):
                self._take_back(admitted)
            return
        self.store.activate(allocation_id, generation=generation)

    def _take_back(self, admitted: Admitted) -> None:
        """The lease may have arrived though no answer came. Nothing runs under it yet, so this is a courtesy."""
        lease = admitted.lease
        for share in admitted.shares:
            try:
                self.fabric.end(
                    share.host_uid, allocation_uid=lease.allocation_uid, generation=lease.generation, grace_s=0
                )
            except FabricError as error:
                log.info("allocation %s: lease not taken back, it runs out: %s", admitted.allocation_id, error)

    def _release(self, ending: Releasing) -> None:
        ended = None
        if ending.host_uid is not None and not ending.host_lost:
            try:
                ended = self.fabric.end(
                    ending.host_uid,
                    allocation_uid=ending.allocation_uid,
                    generation=ending.generation,
                    grace_s=ending.grace_s,
                )
            except StaleGenerationError:
                # The host never held this generation, or holds another that is ended by its own heartbeat.
                log.warning("allocation %s: its host knows another generation", ending.allocation_id)
        self.store.released(ending.allocation_id, generation=ending.generation, ended=ended)

    def _drop(self, groups: Sequence[str]) -> None:
        failed: FabricError | None = None
        for name in groups:
            try:
                self.fabric.remove(name)
            except FabricError as error:
                failed = error
                continue
            self.store.group_dropped(name)
        if failed is not None:
            raise failed


def _key(item: Admitted | Releasing) -> Key:
    if isinstance(item, Admitted):
        return item.allocation_id, item.lease.generation
    return item.allocation_id, item.generation


def without(snapshot: Snapshot, held_back: Mapping[int, WaitReason]) -> Snapshot:
    """The snapshot less requests that something other than capacity holds back: they keep nobody waiting."""
    return replace(snapshot, queue=[request for request in snapshot.queue if request.allocation_id not in held_back])


def held_back_too(snapshot: Snapshot, refused: Mapping[int, WaitReason]) -> dict[int, WaitReason]:
    """The later requests of a customer that need at least as much as one which a limit has just held back.

    They are not tried one by one: a customer's thousand requests beyond its quota must not slow down the others.
    """
    limited = [
        (request, refused[request.allocation_id])
        for request in snapshot.queue
        if request.allocation_id in refused and refused[request.allocation_id].code in LIMIT_CODES
    ]
    by_customer: dict[int, list[tuple[QueuedRequest, WaitReason]]] = {}
    for request, reason in limited:
        by_customer.setdefault(request.customer_id, []).append((request, reason))
    return {
        request.allocation_id: waiting.same_limit(reason)
        for request in snapshot.queue
        if request.allocation_id not in refused
        for smaller, reason in by_customer.get(request.customer_id, [])[:1]
        if _no_smaller(request, smaller)
    }


def _no_smaller(request: QueuedRequest, other: QueuedRequest) -> bool:
    return (
        request.queued_at >= other.queued_at
        and request.gpu_model == other.gpu_model
        and request.gpus >= other.gpus
        and request.cpu_milli >= other.cpu_milli
        and request.memory_bytes >= other.memory_bytes
    )
