"""What tasks wait for."""

import random
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.tasks.graph import Condition, Verdict, fails, find_cycle, in_order, judge
from scheduler.states import TASK, TaskState

_C, _T, _V = Condition, TaskState, Verdict
ENDS = sorted(state for state, following in TASK.items() if not following)
NAMES = st.sampled_from("abcdefgh")
GRAPHS = st.dictionaries(NAMES, st.sets(NAMES | st.just("exists"), max_size=3), max_size=8)


@pytest.mark.parametrize(
    ("parents", "cycle"),
    [
        ({}, None),
        ({"train": ["prepare"], "prepare": []}, None),
        ({"train": ["one-that-exists"]}, None),
        ({"a": ["a"]}, ("a",)),
        ({"b": ["a"], "a": ["b"]}, ("a", "b")),
        ({"start": ["c"], "b": ["a"], "a": ["c"], "c": ["b"]}, ("a", "c", "b")),
        ({"d": ["b", "c"], "b": ["a"], "c": ["a"], "a": []}, None),
    ],
)
def test_a_cycle_is_named(parents: dict[str, list[str]], cycle: tuple[str, ...] | None) -> None:
    assert find_cycle(parents) == cycle


@settings(deadline=None)
@given(GRAPHS, st.randoms(use_true_random=False))
def test_a_cycle_is_found_if_there_is_one_whatever_the_order(
    parents: dict[str, set[str]], chance: random.Random
) -> None:
    left = dict(parents)
    while free := [task for task in left if not left[task] & set(left)]:
        for task in free:
            del left[task]
    cycle = find_cycle(parents)
    assert (cycle is not None) == bool(left)
    assert len(set(cycle or ())) == len(cycle or ())
    for task, parent in zip(cycle or (), (*(cycle or ())[1:], *(cycle or ())[:1]), strict=True):
        assert parent in parents[task]
    names = list(parents)
    chance.shuffle(names)
    assert find_cycle({name: sorted(parents[name], reverse=True) for name in names}) == cycle


def test_a_long_chain_is_no_deep_recursion() -> None:
    names = [f"{number:05}" for number in range(20_001)]
    chain = {task: [parent] for task, parent in pairwise(names)}
    assert find_cycle(chain) is None
    assert find_cycle({**chain, names[-1]: [names[0]]}) == tuple(names)


@pytest.mark.parametrize(
    ("condition", "starts"),
    [
        (_C.SUCCEEDED, {_T.SUCCEEDED}),
        (_C.FAILED, {_T.FAILED, _T.TIMED_OUT}),
        (_C.FINISHED, {_T.SUCCEEDED, _T.FAILED, _T.CANCELLED, _T.TIMED_OUT}),
    ],
)
def test_what_a_parents_end_means(condition: Condition, starts: set[TaskState]) -> None:
    for state in _T:
        expected = _V.WAIT if TASK[state] else _V.START if state in starts else _V.CANCEL
        assert judge({1: condition}, {1: state}) is expected


def test_all_have_to_end_as_asked_and_one_that_does_not_is_enough() -> None:
    parents = {1: _C.SUCCEEDED, 2: _C.FINISHED}
    assert judge(parents, {1: _T.SUCCEEDED, 2: _T.RUNNING}) is _V.WAIT
    assert judge(parents, {1: _T.SUCCEEDED, 2: _T.FAILED}) is _V.START
    assert judge(parents, {1: _T.FAILED, 2: _T.RUNNING}) is _V.CANCEL
    assert judge({}, {}) is _V.START


def test_parents_come_first_and_in_one_order() -> None:
    parents = {"c": ["b", "elsewhere"], "b": ["a"], "a": [], "d": ["a"]}
    assert in_order(parents) == in_order(dict(reversed(parents.items()))) == ["a", "b", "d", "c"]


@pytest.mark.parametrize("state", sorted(_T))
def test_only_what_has_ended_fails(state: TaskState) -> None:
    assert not fails(_C.FINISHED, state)
    assert fails(_C.SUCCEEDED, state) == (state in (_T.FAILED, _T.CANCELLED, _T.TIMED_OUT))


@st.composite
def acyclic(draw: st.DrawFn) -> dict[int, dict[int, Condition]]:
    size = draw(st.integers(1, 8))
    conditions = st.sampled_from(sorted(_C))
    return {
        task: draw(st.dictionaries(st.integers(0, task - 1), conditions, max_size=3)) if task else {}
        for task in range(size)
    }


def undecided(graph: Mapping[int, Mapping[int, Condition]], states: Mapping[int, TaskState]) -> list[int]:
    """Blocked tasks that should not be, by looking at all of them."""
    return [t for t, s in states.items() if s is _T.BLOCKED and judge(graph[t], states) is not _V.WAIT]


@settings(deadline=None)
@given(acyclic(), st.randoms(use_true_random=False))
def test_every_task_comes_to_an_end(graph: dict[int, dict[int, Condition]], chance: random.Random) -> None:
    """Tasks run and end in any order and way: nothing starts too early, and nothing is left blocked."""
    states = {task: _T.BLOCKED if parents else _T.RUNNING for task, parents in graph.items()}
    while running := sorted(task for task, state in states.items() if state is _T.RUNNING):
        ended = chance.choice(running)
        states[ended] = chance.choice(ENDS)
        while waiting := undecided(graph, states):  # each that is cancelled may decide on others
            task = chance.choice(waiting)
            states[task] = _T.RUNNING if judge(graph[task], states) is _V.START else _T.CANCELLED
        for task, state in states.items():
            if state is _T.RUNNING:
                assert all(not TASK[states[parent]] for parent in graph[task]), "nothing starts too early"
    assert set(states.values()) <= set(ENDS)
