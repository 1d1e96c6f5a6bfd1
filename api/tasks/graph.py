"""What tasks wait for: cycles among those that are submitted together, and what one's end means for the others.

A dependency on a task that was submitted before can't close a cycle: what a task waits for is settled when it is
submitted, and by the id, not the name.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter

from scheduler.states import TASK, TaskState


class Condition(StrEnum):
    """How a parent has to end."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # or timed out; a cancelled one has neither succeeded nor failed
    FINISHED = "finished"  # in whatever way


class Verdict(StrEnum):
    """What becomes of a blocked task."""

    WAIT = "wait"
    START = "start"  # -> queued
    CANCEL = "cancel"  # -> cancelled, for its dependency: a parent ended otherwise than it has to


Parents = Mapping[int, Condition]
"""By the ids of their rows."""

_MEET = {
    Condition.SUCCEEDED: frozenset({TaskState.SUCCEEDED}),
    Condition.FAILED: frozenset({TaskState.FAILED, TaskState.TIMED_OUT}),
    Condition.FINISHED: frozenset(state for state, following in TASK.items() if not following),
}


def find_cycle(parents: Mapping[str, Collection[str]]) -> tuple[str, ...] | None:
    """A cycle among the tasks of these names, each waiting for the next and the last for the first, or None.

    It begins with its smallest name and is the same one whatever the order. Parents that are no keys are tasks that
    exist already, and are passed over.
    """
    inner = {name: sorted(parent for parent in parents[name] if parent in parents) for name in sorted(parents)}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        cycle = error.args[1][:0:-1]  # each comes before the next, and the first is there at the end again
        begin = cycle.index(min(cycle))
        return (*cycle[begin:], *cycle[:begin])
    return None


def fails(condition: Condition, state: TaskState) -> bool:
    """Whether a parent in this state has ended otherwise than it has to."""
    return not TASK[state] and state not in _MEET[condition]


def in_order(parents: Mapping[str, Collection[str]]) -> list[str]:
    """The names, each after those of its parents that are among them; the same whatever the order.

    Raises:
        graphlib.CycleError: there is none; see `find_cycle`.
    """
    sorter = TopologicalSorter({name: [each for each in parents[name] if each in parents] for name in parents})
    sorter.prepare()
    ordered: list[str] = []
    while ready := sorted(sorter.get_ready()):
        ordered += ready
        sorter.done(*ready)
    return ordered


def judge(parents: Parents, states: Mapping[int, TaskState]) -> Verdict:
    """What becomes of a blocked task whose `parents` are in these `states`.

    It is cancelled with the first parent that ended otherwise than it has to; the rest is not waited for.
    """
    if any(fails(condition, states[parent]) for parent, condition in parents.items()):
        return Verdict.CANCEL
    ended = {parent for parent in parents if not TASK[states[parent]]}
    return Verdict.START if len(ended) == len(parents) else Verdict.WAIT
