"""Which effects run now, what those that ended have come to, and when failed ones may be tried again."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from scheduler.ports import Admitted, Outcome

Key = tuple[int, int]  # (allocation id, generation)

FIRST_DELAY = timedelta(seconds=1)
LONGEST_DELAY = timedelta(seconds=60)
AGAIN_AFTER = timedelta(milliseconds=500)
"""When to ask again for an end that a long grace holds up."""
MAX_RUNNING = 10_000
"""Effects at once. It bounds the results that wait to be recorded too, since each effect has one."""


def delay_after(failures: int) -> timedelta:
    """1, 2, 4, ... seconds after the first, second, third failure, a minute at most."""
    doublings = min(max(failures - 1, 0), 10)
    return min(FIRST_DELAY * (1 << doublings), LONGEST_DELAY)


@dataclass(frozen=True, slots=True)
class Result:
    """What an effect has come to. `failed`: it has to be done again, after a delay. `goes_on`: it is no failure, but
    has to be asked again soon.

    `take_back`: leases that the hosts may have, to be ended once the store has taken the failure of the placement.
    """

    key: Key
    outcomes: tuple[Outcome, ...] = ()
    failed: bool = False
    goes_on: bool = False
    take_back: Admitted | None = None


@dataclass(slots=True)
class Effects:
    """`finish` may be called by any thread; everything else belongs to the thread of the cycle.

    An effect counts as running until its result is recorded. So none is begun again because of what the store said
    before that.
    """

    _running: set[Key] = field(default_factory=set)
    _results: deque[Result] = field(default_factory=deque)
    _failures: dict[Key, int] = field(default_factory=dict)
    _not_before: dict[Key, datetime] = field(default_factory=dict)

    def begin(self, key: Key, now: datetime) -> bool:
        """Whether an effect may start; if so, it is running from then on."""
        if not self.may_begin(key, now):
            return False
        self._running.add(key)
        return True

    def may_begin(self, key: Key, now: datetime) -> bool:
        """It is not running, not to be tried later only, and there are not too many others."""
        return key not in self._running and self._not_before.get(key, now) <= now and self.room > 0

    @property
    def room(self) -> int:
        """How many more may begin."""
        return MAX_RUNNING - len(self._running)

    def finish(self, result: Result) -> None:
        """It has ended, and waits to be recorded."""
        self._results.append(result)

    def results(self, limit: int) -> list[Result]:
        """The first of those that ended. They stay until they are settled."""
        return list(islice(self._results, min(limit, len(self._results))))

    def settle(self, results: Sequence[Result], now: datetime) -> None:
        """These, which `results` has returned last, are recorded."""
        for result in results:
            self._results.popleft()
            self._running.discard(result.key)
            if result.failed:
                self._failures[result.key] = self._failures.get(result.key, 0) + 1
                self._not_before[result.key] = now + delay_after(self._failures[result.key])
            elif result.goes_on:
                self._failures.pop(result.key, None)
                self._not_before[result.key] = now + AGAIN_AFTER
            else:
                self.forget(result.key)

    def forget(self, key: Key) -> None:
        """Nobody wants it any more: its failures are not remembered."""
        self._failures.pop(key, None)
        self._not_before.pop(key, None)

    @property
    def unrecorded(self) -> bool:
        return bool(self._results)

    @property
    def retry_at(self) -> datetime | None:
        """When the next of those that failed is due."""
        return min(self._not_before.values(), default=None)
