"""What became of an attempt or a task, in words for its owner."""

from signal import Signals

from api.allocations.tables import Allocation
from api.tasks.tables import TaskAttempt
from scheduler.states import AttemptEnd, EndReason, TaskState

MISSED = "Its host has not said that it was told to give way."
AGAIN = "it is queued again"


_SENTENCES = {
    AttemptEnd.OUT_OF_MEMORY: "It used more memory than it has",
    AttemptEnd.TIMED_OUT: "It took longer than its timeout",
    AttemptEnd.DISK_FULL: "It used more disk than it has",
    AttemptEnd.PREEMPTED: "It gave way to a request with a higher claim",
    AttemptEnd.HOST_LOST: "Its host was lost, or cut off for too long",
    AttemptEnd.IMAGE_MISSING: "Its host could not get the image",
    AttemptEnd.SETUP_FAILED: "Its setup failed",
    AttemptEnd.START_FAILED: "Its host could not start it",
    AttemptEnd.CANCELLED: "It was cancelled",
    AttemptEnd.UNPAID: "The balance did not cover another period",
}
_ENDED = {
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
    TaskState.TIMED_OUT: "run out of time",
}


def of_attempt(attempt: TaskAttempt) -> str:
    """Why it ended; empty for a command that succeeded."""
    said = _said(attempt)
    return said if attempt.ended_rank is None else f"On node {attempt.ended_rank}: {said}"


def _said(attempt: TaskAttempt) -> str:
    end = AttemptEnd(attempt.end or AttemptEnd.EXITED)
    if end is AttemptEnd.EXITED:
        return _of_exit(attempt)
    known = attempt.limit_hit or attempt.detail
    if end is AttemptEnd.SETUP_FAILED:
        known = known or _of_exit(attempt)
    return _with(known, _SENTENCES[end])


def of_unstarted(allocation: Allocation) -> str:
    """Why an allocation ended in which nothing had begun."""
    match EndReason(allocation.end_reason or EndReason.HOST_LOST):
        case EndReason.UNPAID:
            return "The balance did not cover another period."
        case EndReason.CANCELLED:
            return _with(allocation.end_detail, "It was cancelled before it started")
        case EndReason.PREEMPTED:
            return _with(allocation.end_detail, f"It had to give way before it started; {AGAIN}")
        case _:
            return _with(allocation.end_detail, f"Its host was lost before it started; {AGAIN}")


def of_dependency(parent: str, state: TaskState) -> str:
    """Why a task is cancelled for the parent of this name."""
    return f"cancelled: dependency {parent!r} {'was' if state is TaskState.CANCELLED else 'has'} {_ENDED[state]}"


def _of_exit(attempt: TaskAttempt) -> str:
    if attempt.signal is not None:
        return f"It was ended by {_signal(attempt.signal)}."
    if attempt.exit_code is None:
        return "It ended, and its host does not know how."
    return "" if attempt.exit_code == 0 else f"It ended with exit code {attempt.exit_code}."


def _signal(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _with(detail: str | None, sentence: str) -> str:
    """The sentence, with what is known beside it."""
    known = (detail or "").rstrip(".")
    return f"{sentence}." if known in ("", sentence) else f"{sentence}: {known}."
