"""A capacity group has what it is guaranteed, soon after it asks for it, whatever others have borrowed."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.views import CapacityGroup
from tests.unit.checked_world import CheckedWorld
from tests.unit.engine_world import GRACE_S
from tests.unit.simulated_world import A100, host

NAMES = ("red", "blue", "gold")

asked = st.fixed_dictionaries(
    {
        "group": st.sampled_from(NAMES),
        "customer_id": st.integers(1, 3),
        "priority": st.sampled_from([0, 100, 900]),
        "preemptible": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    nominal=st.tuples(*[st.integers(1, 3)] * 3),
    before=st.lists(asked, min_size=8, max_size=16),
    owner=st.sampled_from(NAMES),
    preemptible=st.booleans(),
    after=st.lists(asked, max_size=6),
)
def test_what_is_guaranteed_is_had_within_a_grace_period(
    nominal: tuple[int, int, int],
    before: list[dict[str, Any]],
    owner: str,
    preemptible: bool,
    after: list[dict[str, Any]],
) -> None:
    """The cluster has no more than is guaranteed. What others ask for meanwhile, with any priority, changes nothing,
    nor does it afterwards, even if what the owner runs is preemptible."""
    groups = [CapacityGroup(name, "all", 1000 * gpus) for name, gpus in zip(NAMES, nominal, strict=True)]
    sizes = [2] * (sum(nominal) // 2) + [1] * (sum(nominal) % 2)
    hosts = {number: host(number, *[A100] * size) for number, size in enumerate(sizes, start=1)}
    there = CheckedWorld(hosts, groups=groups)
    for options in before:
        there.ask(**options)
    there.cycle()
    own = nominal[NAMES.index(owner)]
    for _ in range(own):
        there.ask(group=owner, customer_id=4, preemptible=preemptible)
    for options in after:
        there.ask(**options)
    there.cycle()
    there.pass_time(GRACE_S)
    there.cycle()
    assert there.picture().used(owner) >= 1000 * own
    for name in NAMES:
        there.ask(group=name, customer_id=5, priority=950)
    there.cycle()
    there.pass_time(GRACE_S)
    there.cycle()
    assert there.picture().used(owner) >= 1000 * own
