"""The transition tables: whole, without dead ends, and the tasks' as the design has it."""

from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.states import (
    ALLOCATION,
    ATTEMPT,
    ENVIRONMENT,
    RESERVATION,
    TASK,
    AttemptState,
    TaskState,
    TransitionError,
    check_transition,
)

Table = Mapping[StrEnum, frozenset[StrEnum]]
WITH_ENDS = {"allocation": ALLOCATION, "attempt": ATTEMPT, "environment": ENVIRONMENT, "reservation": RESERVATION,
             "task": TASK}  # fmt: skip
_T = TaskState
ENDS = {_T.SUCCEEDED, _T.FAILED, _T.CANCELLED, _T.TIMED_OUT}


def reachable(table: Table, state: StrEnum) -> set[StrEnum]:
    found: set[StrEnum] = set()
    ahead = [state]
    while ahead:
        new = table[ahead.pop()] - found
        found |= new
        ahead.extend(new)
    return found


@pytest.mark.parametrize("table", WITH_ENDS.values(), ids=WITH_ENDS)
def test_every_state_has_a_row_and_can_come_to_an_end(table: Table) -> None:
    (kind,) = {type(state) for state in table}
    assert set(table) == set(kind)
    terminal = {state for state, following in table.items() if not following}
    assert terminal
    for state in set(table) - terminal:
        assert reachable(table, state) & terminal, state
        assert state not in table[state], "a transition changes something"


def test_a_task_ends_in_four_ways_and_starts_blocked_or_queued() -> None:
    assert {state for state, following in TASK.items() if not following} == ENDS
    assert reachable(TASK, _T.BLOCKED) == set(_T) - {_T.BLOCKED}, "nothing leads back to `blocked`"
    assert {state for state, following in TASK.items() if _T.QUEUED in following} == {_T.BLOCKED, _T.STOPPING}


@settings(deadline=None)
@given(st.data())
def test_what_a_host_has_begun_ends_only_once_it_is_stopped(data: st.DataObject) -> None:
    """Whatever way a task takes, its command runs after a start, and an end after a start comes after `stopping`."""
    way = [data.draw(st.sampled_from([_T.BLOCKED, _T.QUEUED]))]
    while TASK[way[-1]] and len(way) < 40:
        way.append(data.draw(st.sampled_from(sorted(TASK[way[-1]]))))
        check_transition(TASK, current=way[-2], target=way[-1])
    for before, state in pairwise(way):
        assert state is not _T.RUNNING or before is _T.STARTING
        assert before not in {_T.STARTING, _T.RUNNING} or state in {_T.RUNNING, _T.STOPPING}
        assert state not in {_T.SUCCEEDED, _T.TIMED_OUT} or before is _T.STOPPING


@pytest.mark.parametrize("end", sorted(ENDS))
def test_an_end_is_final(end: TaskState) -> None:
    with pytest.raises(TransitionError, match=f"TaskState: {end} -> queued is not a transition"):
        check_transition(TASK, current=end, target=_T.QUEUED)


def test_an_attempt_is_not_tried_again() -> None:
    assert reachable(ATTEMPT, AttemptState.STARTING) == set(AttemptState) - {AttemptState.STARTING}
    assert reachable(ATTEMPT, AttemptState.STOPPING) == {AttemptState.ENDED}
