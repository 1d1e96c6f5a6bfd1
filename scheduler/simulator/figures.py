"""What a run of a trace comes to: waits by class, makespan, use, admissions and preemptions."""

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.simulator.course import Course, Story


@dataclass(frozen=True, slots=True)
class KindFigures:
    """Of one class of work. A wait is the time from arrival to the last start; seconds."""

    kind: str
    count: int
    finished: int
    preemptions: int
    mean_wait_s: float
    longest_wait_s: float
    mean_first_wait_s: float


@dataclass(frozen=True, slots=True)
class RunFigures:
    """`used_percent` of all GPU time until the end of the run; `lost_percent` of it by runs that were preempted."""

    makespan_s: float
    used_percent: float
    lost_percent: float
    admissions: int
    preemptions: int
    waiting: int
    kinds: tuple[KindFigures, ...]


def run_figures(course: Course) -> RunFigures:
    """The figures, by class in alphabetical order."""
    stories = course.stories
    end_ms = max((story.ended_ms for story in stories if story.ended_ms is not None), default=0)
    available = max(1, end_ms * course.trace.gpus * 1000)
    useful = sum(_gpu_milli_ms(story, (story.ended_ms or 0) - (story.started_ms or 0)) for story in _ended(stories))
    used = sum(_gpu_milli_ms(story, story.ran_ms) for story in stories)
    kinds = sorted({story.work.kind for story in stories})
    return RunFigures(
        makespan_s=end_ms / 1000,
        used_percent=100 * used / available,
        lost_percent=100 * (used - useful) / available,
        admissions=course.admissions,
        preemptions=sum(story.preemptions for story in stories),
        waiting=sum(story.started_ms is None for story in stories),
        kinds=tuple(_of_kind(kind, [story for story in stories if story.work.kind == kind]) for kind in kinds),
    )


def _of_kind(kind: str, stories: list[Story]) -> KindFigures:
    waits = [story.started_ms - story.work.arrives_ms for story in stories if story.started_ms is not None]
    first = [story.first_started_ms - story.work.arrives_ms for story in stories if story.first_started_ms is not None]
    return KindFigures(
        kind=kind,
        count=len(stories),
        finished=sum(1 for _ in _ended(stories)),
        preemptions=sum(story.preemptions for story in stories),
        mean_wait_s=_mean_s(waits),
        longest_wait_s=max(waits, default=0) / 1000,
        mean_first_wait_s=_mean_s(first),
    )


def _ended(stories: Iterable[Story]) -> Iterable[Story]:
    return (story for story in stories if story.ended_ms is not None)


def _gpu_milli_ms(story: Story, ms: int) -> int:
    return story.work.demand.gpu_milli * ms


def _mean_s(waits: list[int]) -> float:
    return sum(waits) / len(waits) / 1000 if waits else 0.0
