"""How long a balance lasts for what runs on it, and what is ended first when it does not last.

A rate is micro-units per GPU hour times thousandths of a GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate

from scheduler.money import MILLI_PER_GPU, MS_PER_HOUR

_RATE_UNIT = MILLI_PER_GPU * MS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Spender:
    """Something that runs and costs: paid for up to `covers_until_ms`; its end takes `grace_ms` from the word on."""

    allocation_id: int
    rate: int
    covers_until_ms: int
    grace_ms: int


@dataclass(frozen=True, slots=True)
class Leaver:
    """Something that was told to end: what it is covered for beyond `ends_ms` comes back, what is missing is needed."""

    rate: int
    covers_until_ms: int
    ends_ms: int

    @property
    def returns_micro(self) -> int:
        return self.rate * (self.covers_until_ms - self.ends_ms) // _RATE_UNIT  # what is needed is rounded up


def lasts_until_ms(budget_micro: int, spenders: Sequence[Spender], *, now_ms: int) -> int | None:
    """The moment up to which all of them can be paid; None: they cost nothing.

    Each is covered for some time already; from then on it draws on the budget.
    """
    costly = sorted((max(now_ms, each.covers_until_ms), each.rate) for each in spenders if each.rate)
    if not costly:
        return None
    left, drawn = max(0, budget_micro) * _RATE_UNIT, 0
    at = costly[0][0]
    for begins, rate in costly:
        if drawn * (begins - at) > left:
            break
        left -= drawn * (begins - at)
        at, drawn = begins, drawn + rate
    return at + left // drawn


def who_ends(
    budget_micro: int, spenders: Sequence[Spender], leavers: Sequence[Leaver] = (), *, now_ms: int, margin_ms: int
) -> list[int]:
    """The ids of those that must be told to end now, the first ones of `spenders` first.

    That is the moment when all can be paid for no longer than what stays may need for its own end, and `margin_ms`.
    What comes back from those that end is spent on the others, if it comes before any of these needs it.
    """
    money = _Money(budget_micro)
    for leaver in leavers:
        money.expect(leaver)
    staying = [each for each in spenders if each.rate]
    graces = _from_each_on(max, [each.grace_ms for each in staying])
    earliest = _from_each_on(min, [each.covers_until_ms for each in staying])
    draw = _Draw(staying, now_ms)
    ending: list[int] = []
    for first, grace_ms, covered_until_ms in zip(staying, graces, earliest, strict=True):
        beyond_notice_ms = now_ms + grace_ms + margin_ms + 1
        if draw.until(beyond_notice_ms) <= max(0, money.before(covered_until_ms)) * _RATE_UNIT:
            break
        ending.append(first.allocation_id)
        draw.drop_first()
        money.expect(Leaver(first.rate, first.covers_until_ms, now_ms + first.grace_ms))
    return ending


def _from_each_on(best: Callable[[int, int], int], values: Sequence[int]) -> list[int]:
    """For each of the values, the best of it and of all that follow."""
    return list(accumulate(reversed(values), best))[::-1]


@dataclass(slots=True)
class _Money:
    """What there is to spend, in micro-units; what comes back counts if it can be waited for."""

    micro: int
    _coming: list[tuple[int, int]] = field(default_factory=list)

    def expect(self, leaver: Leaver) -> None:
        returns_micro = leaver.returns_micro
        if returns_micro > 0:
            heappush(self._coming, (leaver.ends_ms, returns_micro))
        else:
            self.micro += returns_micro

    def before(self, moment_ms: int) -> int:
        """With all that comes back before then. Moments never go back."""
        while self._coming and self._coming[0][0] < moment_ms:
            self.micro += heappop(self._coming)[1]
        return self.micro


class _Draw:
    """What spenders cost beyond what they are covered for, in `_RATE_UNIT`-ths of a micro-unit: sorted once."""

    def __init__(self, spenders: Sequence[Spender], now_ms: int) -> None:
        self._rates = [each.rate for each in spenders]
        self._begins = [max(now_ms, each.covers_until_ms) for each in spenders]
        self._by_begin = sorted(range(len(spenders)), key=self._begins.__getitem__)
        self._first = 0
        self._moment_ms = max(self._begins, default=now_ms) + 1
        # Of those that draw on the budget before the moment that was last asked for: the rate, and what to take off.
        self._rate = sum(self._rates)
        self._covered = sum(rate * begins for rate, begins in zip(self._rates, self._begins, strict=True))

    def until(self, moment_ms: int) -> int:
        """What those that are left cost up to then. Moments never go forward."""
        self._moment_ms = moment_ms
        while self._by_begin and self._begins[self._by_begin[-1]] >= moment_ms:
            late = self._by_begin.pop()
            if late >= self._first:
                self._leave_out(late)
        return self._rate * moment_ms - self._covered

    def drop_first(self) -> None:
        """The first one of those that are left draws no more."""
        if self._begins[self._first] < self._moment_ms:
            self._leave_out(self._first)
        self._first += 1

    def _leave_out(self, number: int) -> None:
        self._rate -= self._rates[number]
        self._covered -= self._rates[number] * self._begins[number]
