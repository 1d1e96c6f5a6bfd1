"""What the engine promises over time: the first is never delayed by who comes behind it, and nobody starves."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.states import AllocationState
from scheduler.views import CapacityGroup
from tests.unit.checked_world import CheckedWorld
from tests.unit.engine_world import GRACE_S, SETTINGS
from tests.unit.simulated_world import A100, host

LIMITS_S = (10, 25, 40)
MOST_PRIORITY = 200
AGEING_S = 20  # raises the priority by 100
HOSTS = {number: host(number, *[A100] * 4, cpu_milli=16_000) for number in (1, 2)}
GROUPS = ((), (CapacityGroup("red", "all", 4000), CapacityGroup("blue", "all", 2000)))

sizes = st.sampled_from([{"gpus": 1}, {"gpus": 2}, {"gpus": 4}, {"milli": 400}, {"nodes": 2}, {"gpus": 2, "nodes": 2}])
others = st.fixed_dictionaries(
    {
        "size": sizes,
        "customer_id": st.integers(2, 3),
        "limit_s": st.sampled_from(LIMITS_S),
        "priority": st.sampled_from([0, 100, MOST_PRIORITY]),
        "preemptible": st.booleans(),
        "group": st.sampled_from([None, "red", "blue"]),
    }
).map(lambda options: {**options.pop("size"), **options})
"""Work that comes all the time, with limits."""


@settings(max_examples=40, deadline=None)
@given(
    running=st.lists(st.sampled_from(LIMITS_S), min_size=8, max_size=8),
    head=st.sampled_from([{"gpus": 4}, {"gpus": 3}, {"gpus": 4, "nodes": 2}, {"gpus": 2, "nodes": 2}]),
    behind=st.lists(st.tuples(st.integers(0, 9), others, st.booleans(), st.booleans()), min_size=5, max_size=25),
    kept_places=st.sampled_from([1, 3, 16]),
)
def test_the_start_of_the_first_never_moves_later(
    running: list[int],
    head: dict[str, Any],
    behind: Sequence[tuple[int, dict[str, Any], bool, bool]],
    kept_places: int,
) -> None:
    """Whatever is behind it, limited or not, and whether it ends early or not."""
    there = CheckedWorld(HOSTS, settings=replace(SETTINGS, kept_places=kept_places))
    for index, limit_s in enumerate(running):
        host_id, gpu_id = 1 + index // 4, 10 * (1 + index // 4) + index % 4
        there.work[900 + index] = 900 + index
        there.run(900 + index, (host_id, gpu_id), limit_s=limit_s)
    first = there.ask(**head, customer_id=1, priority=1000).allocation_id
    there.cycle()
    promised = _latest(there, first)
    for seconds, options, limited, ends_early in behind:
        there.ask(**{**options, "group": None, "priority": 0} | ({} if limited else {"limit_s": None}))
        there.pass_time(seconds)
        if ends_early and (active := [n for n, h in there.held.items() if h.state is AllocationState.ACTIVE]):
            there.leave(active[seconds % len(active)], grace_s=0)
        there.cycle()
        if first in there.held:
            break
        now_promised = _latest(there, first)
        assert now_promised <= promised
        promised = now_promised
    there.pass_time(max(0.0, (promised - there.now).total_seconds()))
    there.cycle()
    assert first in there.held


def _latest(there: CheckedWorld, number: int) -> datetime:
    """When it starts at the latest, to the second if that is later than expected."""
    reason = there.reasons[number]
    if reason.figures and "latest_at" in reason.figures:
        return datetime.fromtimestamp(reason.figures["latest_at"], UTC)
    assert reason.eta is not None
    assert reason.eta_basis == "limits"
    return reason.eta


@settings(max_examples=25, deadline=None)
@given(
    before=st.lists(others, min_size=2, max_size=8),
    target=sizes,
    group=st.sampled_from([None, "red"]),
    stream=st.lists(st.lists(others, min_size=1, max_size=2), min_size=10, max_size=10),
    groups=st.sampled_from(GROUPS),
)
def test_nobody_starves(
    before: list[dict[str, Any]],
    target: dict[str, Any],
    group: str | None,
    stream: list[list[dict[str, Any]]],
    groups: tuple[CapacityGroup, ...],
) -> None:
    """Once it has aged above all that still comes, only those who are ahead by then come before it, and each of them
    starts, at the latest, when what ran before has ended.
    """
    there = CheckedWorld(HOSTS, groups=groups, settings=replace(SETTINGS, ageing_step_s=AGEING_S))
    for options in before:
        there.ask(**options)
    there.cycle()
    size = {"gpus": 2} if groups and group is None else target  # what the open group has
    number = there.ask(**size, customer_id=1, group=group, limit_s=LIMITS_S[0]).allocation_id
    arrived, deadline = there.now, None
    while number not in there.held:
        if deadline is None and (there.now - arrived).total_seconds() > AGEING_S * (MOST_PRIORITY / 100 + 1):
            rounds = len(there.queued) + 1
            deadline = there.now + rounds * timedelta(seconds=max(LIMITS_S) + GRACE_S)
        assert deadline is None or there.now <= deadline, "starved"
        for options in stream[int(there.now.timestamp()) // 5 % len(stream)]:
            there.ask(**options)
        there.cycle()
        there.pass_time(5)
        there.cycle()
