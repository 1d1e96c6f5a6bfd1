"""What the loop's store itself has made of allocations: triggers note for the loop only what others do."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from scheduler.ports import Dropped, Ended, Eviction, Outcome, Placed, PlacementFailed
from scheduler.states import AllocationState
from scheduler.views import Held


@dataclass(slots=True)
class OwnSteps:
    """`held` is what holds something, as it was last told or written; the rest is what has yet to be told."""

    held: dict[int, Held] = field(default_factory=dict)
    _changed: dict[int, Held] = field(default_factory=dict)
    _gone: set[int] = field(default_factory=set)
    _unread: set[int] = field(default_factory=set)

    def placed(self, placed: Iterable[Held]) -> None:
        for item in placed:
            self._changed[item.request.allocation_id] = self.held[item.request.allocation_id] = item

    def evicted(self, evictions: Sequence[Eviction], done: Sequence[bool]) -> None:
        for eviction, good in zip(evictions, done, strict=True):
            if good:
                self._move(eviction.allocation_id, AllocationState.RELEASING)

    def recorded(self, outcomes: Sequence[Outcome], done: Sequence[bool]) -> None:
        for outcome, good in zip(outcomes, done, strict=True):
            if not good or isinstance(outcome, Dropped):
                continue
            if isinstance(outcome, Placed):
                self._move(outcome.allocation_id, AllocationState.ACTIVE)
            elif isinstance(outcome, Ended):
                self._forget(outcome.allocation_id)
                self._gone.add(outcome.allocation_id)
            elif isinstance(outcome, PlacementFailed):
                self._forget(outcome.allocation_id)
                self._unread.add(outcome.allocation_id)

    def to_read(self, noted: Collection[int]) -> list[int]:
        """The allocations that have to be read: what others have changed too, and what waits again."""
        return sorted(self._unread.union(noted))

    def others(self, read: Collection[int]) -> tuple[list[Held], list[int]]:
        """What holds something, and what has gone, of those that are not in `read`."""
        held = [item for number, item in self._changed.items() if number not in read]
        return held, sorted(self._gone.difference(read))

    def told(self, held: Iterable[Held], others: Iterable[int]) -> None:
        """`held` has been told, and that `others` hold nothing: nothing is left to be told."""
        self._changed.clear()
        self._gone.clear()
        self._unread.clear()
        for item in held:
            self.held[item.request.allocation_id] = item
        for number in others:
            self.held.pop(number, None)

    def _move(self, allocation_id: int, state: AllocationState) -> None:
        held = self.held.get(allocation_id)
        if held is None:  # it was placed before the last look, and has not been told yet
            self._unread.add(allocation_id)
        else:
            self._changed[allocation_id] = self.held[allocation_id] = replace(held, state=state)

    def _forget(self, allocation_id: int) -> None:
        self.held.pop(allocation_id, None)
        self._changed.pop(allocation_id, None)
