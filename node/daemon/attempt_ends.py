"""How an attempt ended, from what its runner says and what Docker saw: a decision without effects."""

from dataclasses import dataclass

from node.daemon.attempt_status import RunnerEnd, RunnerStatus
from node.daemon.engine import Json
from scheduler.states import AttemptEnd

_MIB = 2**20
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_TWICE = 125
_SIGNALLED = 128
_LAST_SIGNAL = 64
_ENDS = {
    RunnerEnd.EXITED: AttemptEnd.EXITED,
    RunnerEnd.TIMED_OUT: AttemptEnd.TIMED_OUT,
    RunnerEnd.SETUP_FAILED: AttemptEnd.SETUP_FAILED,
}


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """What Docker says of a container that has exited."""

    code: int
    oom_killed: bool  # the kernel ended something in it for its memory limit
    words: str = ""


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    end: AttemptEnd
    exit_code: int | None = None
    signal: int | None = None
    limit_hit: str | None = None
    detail: str = ""


def exit_of(inspected: Json) -> ContainerExit:
    state = inspected["State"]
    return ContainerExit(int(state["ExitCode"]), bool(state.get("OOMKilled")), str(state.get("Error") or "")[:300])


def outcome(
    status: RunnerStatus | None, exited: ContainerExit, *, memory_bytes: int, timeout_s: int | None
) -> AttemptOutcome:
    """The container has exited, nobody on the host having decided that it should."""
    told = _told(status, timeout_s) if status is not None and status.ended else _untold(status, exited)
    succeeded = told.end == AttemptEnd.EXITED and told.exit_code == 0
    if exited.oom_killed and not succeeded and told.end != AttemptEnd.TIMED_OUT:
        limit = f"memory: {memory_bytes / _MIB:.0f} MiB"
        return AttemptOutcome(AttemptEnd.OUT_OF_MEMORY, told.exit_code, told.signal, limit, told.detail)
    return told


def _told(status: RunnerStatus, timeout_s: int | None) -> AttemptOutcome:
    """By the runner, which is the tenant's word."""
    assert status.end is not None
    limit = f"timeout: {timeout_s} s" if status.end == RunnerEnd.TIMED_OUT and timeout_s is not None else None
    code = status.exit_code if status.signal is None else None
    return AttemptOutcome(_ENDS[status.end], code, status.signal, limit, status.detail)


def _untold(status: RunnerStatus | None, exited: ContainerExit) -> AttemptOutcome:
    """The runner did not live to say it, or never ran."""
    if status is None and exited.code in (_TWICE, _NOT_EXECUTABLE, _NOT_FOUND):
        words = exited.words or "the image has no python3 that runs"
        return AttemptOutcome(AttemptEnd.START_FAILED, exited.code, detail=words)
    number = exited.code - _SIGNALLED
    if 0 < number <= _LAST_SIGNAL:
        return AttemptOutcome(AttemptEnd.EXITED, signal=number, detail=exited.words)
    return AttemptOutcome(AttemptEnd.EXITED, exited.code, detail=exited.words)
