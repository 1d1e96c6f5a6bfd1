"""How far a hold reaches, and what that costs at most: its time is made of stretches, each at one price.

A price is kept for a promised time. The one that follows is chosen when time after it is first paid for, and begins
where the promise ends, neither before nor after. Nothing here reads or writes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from scheduler.intervals import Span, clip
from scheduler.money import affordable_ms, worst_case_charge_micro


@dataclass(frozen=True, slots=True)
class Stretch:
    """Time of a hold at one price. `until_ms`: how long the price is kept; None: to the hold's end."""

    from_ms: int
    until_ms: int | None
    price_version_id: int
    terms: str
    price_micro_per_gpu_hour: int

    def end_ms(self, until_ms: int) -> int:
        """Where it ends in a time that goes up to `until_ms`."""
        return until_ms if self.until_ms is None else min(until_ms, self.until_ms)

    def costs_as(self, other: "Stretch") -> bool:
        return replace(other, from_ms=self.from_ms, until_ms=self.until_ms) == self


@dataclass(frozen=True, slots=True)
class Size:
    """Of a hold: its devices, and thousandths of devices in all."""

    milli: int
    devices: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a hold becomes: up to when it covers, at what cost since its start, and the stretches that ended."""

    covers_until_ms: int
    bought_micro: int
    earlier_micro: int  # of it, for the stretches before `stretch`
    stretch: Stretch
    passed: tuple[Stretch, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """What is proven of one device in one stretch."""

    gpu_id: int
    stretch: Stretch
    spans: tuple[Span, ...]


def split(proof: Mapping[int, Sequence[Span]], stretches: Sequence[Stretch]) -> list[Part]:
    """Proof by GPU id, cut where prices change: each moment belongs to one stretch."""
    parts = []
    for gpu_id, spans in sorted(proof.items()):
        for number, stretch in enumerate(stretches):
            # What is beyond the last one's promise is its own: no price has followed it.
            end_ms = None if number + 1 == len(stretches) else stretch.until_ms
            inside = (_within(span, stretch.from_ms, end_ms) for span in spans)
            if found := tuple(span for span in inside if span is not None):
                parts.append(Part(gpu_id, stretch, found))
    return parts


def worst_micro(price_micro_per_gpu_hour: int, milli: int, duration_ms: int, *, devices: int) -> int:
    """The most that all devices together can be charged for that time, however it is split between them."""
    exact = worst_case_charge_micro(
        price_micro_per_gpu_hour=price_micro_per_gpu_hour, milli=milli, duration_ms=max(0, duration_ms)
    )
    return exact + _rounding(price_micro_per_gpu_hour, devices)


def worst_until(stretches: Sequence[Stretch], until_ms: int, size: Size) -> int:
    """The same for all the time of the stretches up to a moment: each is charged, and rounded, for itself."""
    return sum(_cost(stretch, stretch.end_ms(until_ms), size) for stretch in stretches if stretch.from_ms < until_ms)


def cover(
    stretch: Stretch,
    *,
    earlier_micro: int,
    budget_micro: int,
    until_ms: int,
    size: Size,
    following: Callable[[int], Stretch],
) -> Coverage:
    """Reach for `until_ms` with what may be bought in all since the hold's start.

    What was bought is always counted from the start of a stretch, so that rounding up does not accumulate over steps.
    `following` answers the stretch that begins at a moment; no time of it is bought if it can't be paid for at all.
    """
    passed: tuple[Stretch, ...] = ()
    while True:
        end_ms = stretch.end_ms(until_ms)
        reach_ms = _reach_ms(stretch, budget_micro - earlier_micro, end_ms, size)
        here = Coverage(reach_ms, earlier_micro + _cost(stretch, reach_ms, size), earlier_micro, stretch, passed)
        if reach_ms < end_ms or end_ms == until_ms:
            return here
        further = following(end_ms)
        if further.costs_as(stretch):
            stretch = replace(stretch, until_ms=further.until_ms)
            continue
        if _reach_ms(further, budget_micro - here.bought_micro, until_ms, size) <= end_ms:
            return here
        passed, stretch, earlier_micro = (*passed, stretch), further, here.bought_micro


def _within(span: Span, from_ms: int, until_ms: int | None) -> Span | None:
    return clip(span, not_before_ms=from_ms, not_after_ms=span.to_ms if until_ms is None else until_ms)


def _cost(stretch: Stretch, until_ms: int, size: Size) -> int:
    duration_ms = until_ms - stretch.from_ms
    return worst_micro(stretch.price_micro_per_gpu_hour, size.milli, duration_ms, devices=size.devices)


def _reach_ms(stretch: Stretch, budget_micro: int, end_ms: int, size: Size) -> int:
    price = stretch.price_micro_per_gpu_hour
    spendable = max(0, budget_micro - _rounding(price, size.devices))
    length_ms = affordable_ms(budget_micro=spendable, price_micro_per_gpu_hour=price, milli=size.milli)
    return end_ms if length_ms is None else min(end_ms, stretch.from_ms + length_ms)


def _rounding(price_micro_per_gpu_hour: int, devices: int) -> int:
    """Each device's charge is rounded for itself, by half a unit at most."""
    return devices if price_micro_per_gpu_hour else 0
