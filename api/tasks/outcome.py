"""What becomes of a task once an attempt has ended and its hosts have confirmed it, or are lost."""

from dataclasses import dataclass

from api.tasks.spec import Retry, RetryCause
from scheduler.states import AttemptEnd, TaskState


@dataclass(frozen=True, slots=True)
class Outcome:
    """`wait_s`: seconds before it is queued again."""

    state: TaskState
    wait_s: int = 0


_CAUSES = {
    AttemptEnd.PREEMPTED: RetryCause.PREEMPTED,
    AttemptEnd.HOST_LOST: RetryCause.HOST_LOST,
    AttemptEnd.START_FAILED: RetryCause.HOST_LOST,  # no fault of the task either
    AttemptEnd.EXITED: RetryCause.ERROR,
    AttemptEnd.OUT_OF_MEMORY: RetryCause.ERROR,
    AttemptEnd.IMAGE_MISSING: RetryCause.ERROR,
    AttemptEnd.SETUP_FAILED: RetryCause.ERROR,
    AttemptEnd.DISK_FULL: RetryCause.ERROR,
}
_FOR_GOOD = {
    AttemptEnd.CANCELLED: TaskState.CANCELLED,
    AttemptEnd.TIMED_OUT: TaskState.TIMED_OUT,
    AttemptEnd.UNPAID: TaskState.FAILED,
}
_AT_ONCE = (AttemptEnd.PREEMPTED, AttemptEnd.HOST_LOST)


def outcome_of(end: AttemptEnd, *, exit_code: int | None, retry: Retry, attempts: int, cancelled: bool) -> Outcome:
    """Where the task goes from `stopping`.

    `exit_code` is the command's, None if it was ended by a signal or never ran. `attempts` counts this one too.
    `cancelled`: somebody has asked for the end, perhaps after the attempt began to stop for another reason.
    """
    if end is AttemptEnd.EXITED and exit_code == 0:
        return Outcome(TaskState.SUCCEEDED)
    if cancelled:
        return Outcome(TaskState.CANCELLED)
    if end in _FOR_GOOD:
        return Outcome(_FOR_GOOD[end])
    if _CAUSES[end] not in retry.on or attempts > retry.max:
        return Outcome(TaskState.FAILED)
    return Outcome(TaskState.QUEUED, wait_s=0 if end in _AT_ONCE else retry.backoff_s)
