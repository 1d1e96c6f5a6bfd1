"""The engine's world with limits and reservations enforced, and every plan checked before it is carried out."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from scheduler.plan import Plan
from scheduler.views import Request
from tests.unit.engine_checks import Picture
from tests.unit.engine_world import GRACE_S, EngineWorld

MOST_CYCLES = 100


class CheckedWorld(EngineWorld):
    """What was evicted comes again. On hosts that are unreachable nothing ends."""

    def __post_init__(self) -> None:
        self.unreachable: set[int] = set()
        self.work: dict[int, int] = {}  # what an allocation is for: the number of the first one
        self._options: dict[int, dict[str, Any]] = {}  # Any: see `submit`
        self._evicted: set[int] = set()
        self._favours: dict[frozenset[int], list[int]] = {}  # of two pieces of work, which has had to go, in order
        super().__post_init__()

    def ask(self, *, work: int | None = None, **options: Any) -> Request:  # Any: see `submit`
        number = len(self.work) + 1
        self.work[number], self._options[number] = work or number, options
        return self.submit(number, **options)

    def picture(self) -> Picture:
        held, customers = dict(self.held), self.customers
        return Picture(self.now, GRACE_S, self.hosts, held, customers, self.groups, self.reservations)

    def decide(self) -> Plan:
        picture, queued = self.picture(), dict(self.queued)
        plan = super().decide()
        picture.carry_out(plan, queued)
        for eviction in plan.evictions:
            self._evicted.add(eviction.allocation_id)
            if eviction.in_favour_of is not None:
                victim, favoured = self.work[eviction.allocation_id], self.work[eviction.in_favour_of]
                self._favours.setdefault(frozenset((victim, favoured)), []).append(victim)
        return plan

    def cycle(self) -> int:
        """Cycles until nothing more is to be done at once; how many were evicted."""
        evicted = 0
        for _ in range(MOST_CYCLES):
            plan = self.decide()
            evicted += len(plan.evictions)
            if not plan.unfinished:
                return evicted
        raise AssertionError("cycles without an end")

    def check_favours(self) -> None:
        """No two evict each other in turn: that what each owns changes hands may turn it round, but not back again."""
        for victims in self._favours.values():
            turns = sum(before != after for before, after in pairwise(victims))
            assert turns <= 1, victims

    def pass_time(self, seconds: float) -> None:
        until = self.now + timedelta(seconds=seconds)
        while (moment := min((end for end in self._ends() if end > self.now), default=until)) < until:
            self._advance(moment)
        self._advance(until)

    def gone(self, number: int) -> None:
        super().gone(number)
        if number in self._evicted:
            self.ask(work=self.work[number], **self._options[number])

    def _ends(self) -> Iterator[datetime]:
        for number in self.held:
            end = self.leaving.get(number) or self._enforced_end(number)
            if end is not None:
                yield end

    def _enforced_end(self, number: int) -> datetime | None:
        held = self.held[number]
        request = held.request
        ends = [] if request.limit_s is None else [held.since + timedelta(seconds=request.limit_s)]
        if request.reservation_id is not None:
            ends += [each.ends_at for each in self.reservations if each.reservation_id == request.reservation_id]
        return min(ends, default=None)

    def _advance(self, moment: datetime) -> None:
        self.now = moment
        for number, held in list(self.held.items()):
            if any(part.host_id in self.unreachable for part in held.parts):
                continue
            end = self._enforced_end(number)
            if number in self.leaving and self.leaving[number] <= moment:
                self.gone(number)
            elif number not in self.leaving and end is not None and end <= moment:
                self.leave(number)
