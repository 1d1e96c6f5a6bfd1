"""The engine's knobs, with what each is for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Times are in seconds. `docs/explanation/scheduling.md` explains each rule."""

    half_life_s: float = 7 * 24 * 3600  # of past use, in fair sharing
    ageing_step_s: float = 6 * 3600  # each such time of waiting
    ageing_points: int = 100  # raises a request's priority by this much, so that nothing starves
    grace_s: float = 30.0  # between the order to end and the end
    overdue_s: float = 60.0  # so long after that, what has not ended is not counted on any more
    patience_s: float = 5.0  # a request waits for room so long before others are evicted for it
    kept_places: int = 4  # blocked requests that have a place and a time kept for them
    searches: int = 2000  # for a place, in one cycle; the next goes on where it ended
    releases: int = 1024  # looked ahead for the time at which a blocked request could start
    refresh_s: float = 10.0  # how stale the place in the queue that is shown may be
    topology: tuple[str, ...] = ("rack", "zone")  # host labels, closest first
