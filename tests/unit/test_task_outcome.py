"""What becomes of a task when an attempt has ended."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.tasks.outcome import Outcome, outcome_of
from api.tasks.spec import Retry, RetryCause
from scheduler.states import TASK, AttemptEnd, TaskState

_E, _T = AttemptEnd, TaskState
ALWAYS = Retry(max=2, on=[*RetryCause], backoff="10s")
NEVER = Retry(max=2, on=[])
FAILURES = (_E.EXITED, _E.OUT_OF_MEMORY, _E.IMAGE_MISSING, _E.SETUP_FAILED, _E.DISK_FULL)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        *((end, _T.FAILED) for end in FAILURES),
        (_E.PREEMPTED, _T.QUEUED),
        (_E.HOST_LOST, _T.QUEUED),
        (_E.START_FAILED, _T.QUEUED),
        (_E.TIMED_OUT, _T.TIMED_OUT),
        (_E.CANCELLED, _T.CANCELLED),
        (_E.UNPAID, _T.FAILED),
    ],
)
def test_what_is_not_the_tasks_fault_is_tried_again_unless_told_otherwise(end: AttemptEnd, state: TaskState) -> None:
    assert outcome_of(end, exit_code=None, retry=Retry(), attempts=1, cancelled=False).state is state
    assert outcome_of(end, exit_code=None, retry=NEVER, attempts=1, cancelled=False).state is not _T.QUEUED


@pytest.mark.parametrize("end", FAILURES)
def test_an_error_is_tried_again_after_a_while_if_asked_for(end: AttemptEnd) -> None:
    assert outcome_of(end, exit_code=3, retry=ALWAYS, attempts=2, cancelled=False) == Outcome(_T.QUEUED, 10)
    assert outcome_of(end, exit_code=3, retry=ALWAYS, attempts=3, cancelled=False) == Outcome(_T.FAILED)


def test_a_task_that_gave_way_waits_for_nothing_but_its_turn() -> None:
    for end in (_E.PREEMPTED, _E.HOST_LOST):
        assert outcome_of(end, exit_code=None, retry=ALWAYS, attempts=1, cancelled=False) == Outcome(_T.QUEUED, 0)


def test_only_exit_code_zero_of_a_command_that_ended_by_itself_is_success() -> None:
    for end, code in product(_E, (0, 1, None)):
        outcome = outcome_of(end, exit_code=code, retry=ALWAYS, attempts=1, cancelled=False)
        assert (outcome.state is _T.SUCCEEDED) == (end is _E.EXITED and code == 0)


@settings(deadline=None)
@given(st.sampled_from([*_E]), st.sampled_from([0, 1, None]), st.integers(1, 200), st.booleans())
def test_it_comes_to_an_end_and_never_goes_on_against_its_owners_wish(
    end: AttemptEnd, code: int | None, attempts: int, cancelled: bool
) -> None:
    outcome = outcome_of(end, exit_code=code, retry=ALWAYS, attempts=attempts, cancelled=cancelled)
    assert outcome.state in TASK[_T.STOPPING]
    if cancelled:
        assert outcome.state in {_T.CANCELLED, _T.SUCCEEDED}
    if attempts > ALWAYS.max:
        assert outcome.state is not _T.QUEUED
