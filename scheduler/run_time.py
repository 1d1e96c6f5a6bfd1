"""How long a balance lasts for what runs on it, and what is ended first when it does not last.

A rate is micro-units per GPU hour times thousandths of a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    What comes back from those that end is spent on the others.
    """
    budget_micro += sum(leaver.returns_micro for leaver in leavers)
    staying = [each for each in spenders if each.rate]
    ending: list[int] = []
    while staying:
        until_ms = lasts_until_ms(budget_micro, staying, now_ms=now_ms)
        notice_ms = max(each.grace_ms for each in staying) + margin_ms
        if until_ms is None or until_ms - now_ms > notice_ms:
            break
        first = staying.pop(0)
        ending.append(first.allocation_id)
        budget_micro += Leaver(first.rate, first.covers_until_ms, now_ms + first.grace_ms).returns_micro
    return ending
