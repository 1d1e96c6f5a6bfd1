"""Carries decisions out through the fabric: nothing here touches the store. Each effect ends with one result."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Generic, TypeVar

from scheduler.effects import Effects, Key, Result, delay_after
from scheduler.host_protocol import LeaseEnd
from scheduler.ports import (
    Admitted,
    Dropped,
    Ended,
    Fabric,
    FabricError,
    Outcome,
    Placed,
    PlacementFailed,
    Releasing,
    StaleGenerationError,
    StillEndingError,
)

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]
Spawn = Callable[[Callable[[], None]], None]
Value = TypeVar("Value")

DROPS: Key = (-1, 0)  # the key of the effect that drops groups: no allocation has it


@dataclass(slots=True)
class _Gathering(Generic[Value]):
    """Calls that run beside each other; whoever ends last goes on with what all of them came to."""

    then: Callable[[list[Value | Exception | None]], None]
    results: list[Value | Exception | None]
    missing: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, index: int, call: Callable[[], Value]) -> None:
        answer = _answer(call)
        with self.lock:
            self.results[index] = answer
            self.missing -= 1
            last = self.missing == 0
        if last:
            self.then(self.results)


@dataclass(slots=True)
class Executor:
    """`spawn` runs a callable beside the loop; `wake` is called when a result waits to be recorded."""

    fabric: Fabric
    effects: Effects
    clock: Clock
    spawn: Spawn
    wake: Callable[[], None]
    # What hosts of a release have confirmed, while others of the same gang have yet to.
    _confirmed: dict[Key, dict[str, LeaseEnd | None]] = field(default_factory=dict)

    def place(self, admitted: Admitted) -> None:
        """Reserve the group, and hand every host its lease; if one fails, the placement does."""
        key = admitted.allocation_id, admitted.generation
        self.spawn(partial(self._guarded, key, partial(self._place, key, admitted)))

    def take_back(self, admitted: Admitted) -> None:
        """End the leases of a placement that failed: they may have arrived though no answer came.

        Nothing runs under them yet, so this is a courtesy; a lease that can't be taken back runs out.
        """
        key = admitted.allocation_id, admitted.generation
        calls = [
            partial(
                self.fabric.end,
                share.host_uid,
                allocation_uid=lease.allocation_uid,
                generation=lease.generation,
                grace_s=0,
            )
            for share, lease in zip(admitted.shares, admitted.leases, strict=True)
        ]
        self._beside(key, calls, lambda _: self._finish(Result(key)), here=False)

    def release(self, releasing: Releasing) -> None:
        """End the allocation on each of its hosts that has not confirmed yet."""
        key = releasing.allocation_id, releasing.generation
        missing = [uid for uid in releasing.host_uids if uid not in self._confirmed.get(key, {})]
        calls = [
            partial(
                self.fabric.end,
                uid,
                allocation_uid=releasing.allocation_uid,
                generation=releasing.generation,
                grace_s=releasing.grace_s,
                reason=releasing.reason,
            )
            for uid in missing
        ]
        self._beside(key, calls, partial(self._released, key, missing), here=False)

    def drop(self, groups: Sequence[str]) -> None:
        self.spawn(partial(self._guarded, DROPS, partial(self._drop, groups)))

    def forget(self, key: Key) -> None:
        """Nobody wants it any more."""
        self._confirmed.pop(key, None)
        self.effects.forget(key)

    def _place(self, key: Key, admitted: Admitted) -> None:
        dropped: list[Outcome] = []
        try:
            for name in admitted.drop_groups:
                self.fabric.remove(name)
                dropped.append(Dropped(name))
            self.fabric.reserve(admitted.group_name, admitted.shares)
        except FabricError as error:
            self._placed(admitted, dropped, [error])
            return
        calls = [
            partial(self.fabric.grant, share.host_uid, lease)
            for share, lease in zip(admitted.shares, admitted.leases, strict=True)
        ]
        self._beside(key, calls, partial(self._placed, admitted, dropped), here=True)

    def _placed(self, admitted: Admitted, dropped: Sequence[Outcome], answers: Sequence[Exception | None]) -> None:
        key = admitted.allocation_id, admitted.generation
        errors = [answer for answer in answers if answer is not None]
        for error in errors:
            _tell(key, error)
        if errors:
            retry_at = self.clock() + delay_after(admitted.generation)
            failure = PlacementFailed(*key, str(errors[0]), retry_at)
            self._finish(Result(key, (*dropped, failure), take_back=admitted))
        else:
            self._finish(Result(key, (*dropped, Placed(*key))))

    def _released(self, key: Key, host_uids: Sequence[str], answers: Sequence[LeaseEnd | Exception | None]) -> None:
        confirmed = self._confirmed.setdefault(key, {})
        failed = still_ending = False
        for host_uid, answer in zip(host_uids, answers, strict=True):
            if isinstance(answer, StaleGenerationError):
                # The host never held this generation, or holds another that is ended by its own heartbeat.
                log.warning("allocation %s: host %s knows another generation", key[0], host_uid)
                confirmed[host_uid] = None
            elif isinstance(answer, StillEndingError):
                still_ending = True
            elif isinstance(answer, Exception):
                _tell(key, answer)
                failed = True
            else:
                confirmed[host_uid] = answer
        if failed or still_ending:
            self._finish(Result(key, failed=failed, goes_on=still_ending))
            return
        ends = tuple(end for end in confirmed.values() if end is not None)
        self._finish(Result(key, (Ended(*key, ends),)))

    def _drop(self, groups: Sequence[str]) -> None:
        dropped: list[Outcome] = []
        failed = False
        for name in groups:
            try:
                self.fabric.remove(name)
            except FabricError as error:
                log.info("group %s is not dropped, tried again later: %s", name, error)
                failed = True
                continue
            dropped.append(Dropped(name))
        self._finish(Result(DROPS, tuple(dropped), failed))

    def _beside(
        self,
        key: Key,
        calls: Sequence[Callable[[], Value]],
        then: Callable[[list[Value | Exception | None]], None],
        *,
        here: bool,
    ) -> None:
        """Run the calls beside each other, then go on; the last one in this thread, if it may be done `here`."""

        def go_on(results: list[Value | Exception | None]) -> None:
            self._guarded(key, partial(then, results))

        if len(calls) == 1:  # as nearly always: what follows would be the same, for more
            alone = partial(_answer_to, calls[0], go_on)
            alone() if here else self.spawn(alone)
            return
        if not calls:
            go_on([])
        gathering: _Gathering[Value] = _Gathering(go_on, [None] * len(calls), len(calls))
        for index, call in enumerate(calls):
            step = partial(gathering.run, index, call)
            if here and index == len(calls) - 1:
                step()
            else:
                self.spawn(step)

    def _guarded(self, key: Key, action: Callable[[], None]) -> None:
        """Whatever goes wrong, the effect ends with a result: else it would count as running for ever."""
        try:
            action()
        except Exception:
            log.exception("allocation %s generation %s: effect failed; tried again later", *key)
            self._finish(Result(key, failed=True))

    def _finish(self, result: Result) -> None:
        self.effects.finish(result)
        self.wake()


def _answer(call: Callable[[], Value]) -> Value | Exception:
    try:
        return call()
    except Exception as error:
        return error


def _answer_to(call: Callable[[], Value], then: Callable[[list[Value | Exception | None]], None]) -> None:
    then([_answer(call)])


def _tell(key: Key, error: Exception) -> None:
    if isinstance(error, FabricError):
        log.info("allocation %s generation %s: %s; tried again later", *key, error)
    else:
        log.error("allocation %s generation %s: effect failed; tried again later", *key, exc_info=error)
