"""What of a task's time costs nothing: its setup, as far as the tenant's word for it can be believed.

Image and uploads come before the container runs, and cost nothing anyhow. When setup ended and the command began, only
the container itself says. So what is free is bounded twice: by `FREE_SETUP_MS`, and by the time that the command ran.
Who works in the setup and lets the command do nothing pays for all of it; half of the time is the most that a false
word can save, and no more than two minutes of an attempt.
"""

FREE_SETUP_MS = 120_000

Span = tuple[int, int]  # from and to, milliseconds of server time


def free_until(*, started_ms: int, now_ms: int, command_ms: int | None, over: bool) -> int | None:
    """Up to when a run that has not been billed is free; None: its setup goes on, and may.

    `command_ms` is when the command began, by the container's word; None: not yet.
    """
    latest = started_ms + FREE_SETUP_MS
    if command_ms is None and now_ms < latest and not over:
        return None
    return max(started_ms, min(now_ms, latest, now_ms if command_ms is None else command_ms))


def owed_at_end(*, started_ms: int, free_ms: int, ended_ms: int) -> Span | None:
    """What of the free time `started_ms..free_ms` is paid for after all: the command ran for less than that."""
    owed = (free_ms - started_ms) - (ended_ms - free_ms)
    return (started_ms, started_ms + owed) if owed > 0 else None
