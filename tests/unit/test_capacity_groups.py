"""Capacity groups: what each may use, against a reference that only looks at who uses what."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.capacity import OPEN, Capacity
from scheduler.views import CapacityGroup

RED, BLUE = CapacityGroup("red", "all", 4000), CapacityGroup("blue", "all", 2000)


def capacity(*groups: CapacityGroup, total: int = 10_000, **used: int) -> Capacity:
    made = Capacity()
    made.define(groups, total, [(name, milli, False) for name, milli in used.items()])
    return made


def test_without_groups_nothing_is_limited_and_nobody_borrows() -> None:
    free = capacity(total=1000)
    free.take(None, 5000)
    assert free.fits(None, 9000)
    assert not free.borrows(None, 9000)
    assert free.available(None) is free.most(None) is None


def test_a_group_may_use_its_own_and_what_the_cohort_lends() -> None:
    groups = capacity(RED, BLUE)
    assert (groups.available("red"), groups.available("blue")) == (6000, 6000)
    groups.take("blue", 1500)
    assert groups.available("red") == 4500
    assert [groups.borrows("red", milli) for milli in (4000, 4001)] == [False, True]
    groups.take("red", 4500)
    assert not groups.fits("blue", 500), "lent, until it is reclaimed"


def test_what_is_not_lent_is_always_there_for_its_owner() -> None:
    groups = capacity(CapacityGroup("red", "all", 4000, lending_limit=1000), BLUE)
    assert groups.available("blue") == groups.most("blue") == 3000
    groups.take("blue", 3000)
    assert groups.available("red") == 3000


def test_a_group_borrows_up_to_its_limit() -> None:
    groups = capacity(RED, CapacityGroup("blue", "all", 2000, borrowing_limit=500))
    assert groups.most("blue") == 2500
    groups.take("blue", 2000)
    assert (groups.fits("blue", 500), groups.fits("blue", 501)) == (True, False)


def test_a_group_outside_of_cohorts_has_its_own_alone() -> None:
    groups = capacity(RED, CapacityGroup("gold", None, 3000))
    assert (groups.most("gold"), groups.available("gold"), groups.available("red")) == (3000, 3000, 4000)


def test_what_is_guaranteed_to_nobody_is_for_all_others() -> None:
    groups = capacity(RED, BLUE)
    assert groups.most(None) == groups.available("no such group") == 4000
    groups.take("no such group", 3000)
    assert (groups.fits(None, 1000), groups.fits(None, 1001)) == (True, False)
    assert groups.fits(None, 9000, preemptible=True), "it gives way to the groups' own"
    assert not groups.fits("red", 9000, preemptible=True)


def test_preemptible_use_of_the_open_group_counts_for_what_is_preemptible_only() -> None:
    groups = capacity(RED, BLUE)
    groups.take(None, 5000, preemptible=True)
    groups.keep(None, 5000, preemptible=True)
    assert (groups.fits(None, 4000), groups.fits(None, 4001)) == (True, False)
    assert [groups.borrows(None, 0, preemptible=preemptible) for preemptible in (True, False)] == [True, False]
    groups.give_back(None, 5000, preemptible=True)
    assert not groups.borrows(None, 4000)
    groups.take("red", 3000, preemptible=True)
    assert groups.available("red") == 3000, "a group's own is one quota for all of its work"


def test_a_request_without_gpus_needs_nothing_of_a_group() -> None:
    groups = capacity(CapacityGroup("red", None, 1000))
    groups.take("red", 2000)
    groups.take(None, 20_000)
    assert groups.fits("red", 0)
    assert groups.fits(None, 0)


def test_what_becomes_free_in_a_cohort_concerns_all_of_it_and_nobody_else() -> None:
    groups = capacity(RED, BLUE, CapacityGroup("gold", None, 3000))
    groups.take("red", 1000)
    before = {name: groups.freed(name) for name in ("red", "blue", "gold", None)}
    groups.give_back("red", 1000)
    assert [name for name, freed in before.items() if groups.freed(name) != freed] == ["red", "blue"]


def test_what_is_kept_stands_against_all_but_another_groups_own() -> None:
    groups = capacity(RED, BLUE)
    groups.keep("red", 5000)
    assert not groups.fits("red", 1001)
    assert groups.fits("red", 1000)
    assert groups.fits("blue", 2000), "within its own quota"
    assert not groups.fits("blue", 2001)
    assert not groups.borrows("red", 4000), "nothing is used yet"
    groups.keep("red", -5000)
    assert groups.available("red") == 6000


def test_a_group_is_charged_by_its_name_if_there_is_such_a_group() -> None:
    groups = capacity(RED)
    assert [groups.name(name) for name in ("red", "blue", None, OPEN)] == ["red", OPEN, OPEN, OPEN]
    assert list(groups.cohort(None)) == [OPEN]


def left(groups: Sequence[CapacityGroup], used: Mapping[str, int], name: str) -> int:
    """How much more a group may use, tried out thousandth by thousandth in steps of 500."""
    by_name = {group.name: group for group in groups}

    def allowed(name: str, of_it: int) -> bool:
        group, total = by_name[name], dict(used) | {name: of_it}
        if not group.cohort:
            return of_it <= group.nominal
        if group.borrowing_limit is not None and of_it > group.nominal + group.borrowing_limit:
            return False
        cohort = [other for other in groups if other.cohort == group.cohort]
        lent = {g.name: g.nominal if g.lending_limit is None else min(g.nominal, g.lending_limit) for g in cohort}
        return sum(max(0, total[g.name] - (g.nominal - lent[g.name])) for g in cohort) <= sum(lent.values())

    return max((more for more in range(0, 20_001, 500) if allowed(name, used[name] + more)), default=-1)


amounts = st.integers(0, 8).map(lambda number: 500 * number)
group_lists = st.lists(
    st.builds(
        CapacityGroup,
        st.sampled_from("abcd"),
        st.sampled_from([None, "x", "y"]),
        amounts,
        borrowing_limit=st.none() | amounts,
        lending_limit=st.none() | amounts,
    ),
    min_size=1,
    unique_by=lambda group: group.name,
)


@given(group_lists, st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 6).map(lambda n: 500 * n)), max_size=20))
def test_what_fits_is_what_the_reference_says(groups: list[CapacityGroup], steps: list[tuple[str, int]]) -> None:
    held = capacity(*groups)
    used = {group.name: 0 for group in groups}
    for name, milli in steps:
        if name not in used:
            continue
        assert held.fits(name, milli) == (milli <= left(groups, used, name))
        nominal = next(group.nominal for group in groups if group.name == name)
        assert held.borrows(name, milli) == (used[name] + milli > nominal)
        if held.fits(name, milli):
            held.take(name, milli)
            used[name] += milli
        else:
            held.give_back(name, used[name])
            used[name] = 0


@pytest.mark.parametrize("order", [1, -1])
def test_groups_mean_the_same_in_any_order(order: int) -> None:
    first, second = capacity(RED, BLUE, red=5000), capacity(*[RED, BLUE][::order], red=5000)
    assert [first.available(name) for name in ("red", "blue", None)] == [
        second.available(name) for name in ("red", "blue", None)
    ]
