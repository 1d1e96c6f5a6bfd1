"""State machines: every state with the transitions that leave it.

No other module decides whether a transition is allowed, and only the one `apply` function per entity assigns a state.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class AllocationState(StrEnum):
    QUEUED = "queued"  # -> placing, released (cancelled before it held anything)
    PLACING = "placing"  # -> active, queued (the placement failed), releasing
    ACTIVE = "active"  # -> releasing
    RELEASING = "releasing"  # -> released
    RELEASED = "released"  # terminal


class EndReason(StrEnum):
    """Why an allocation ended; set when it enters `releasing` (or `released` straight from `queued`)."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    PREEMPTED = "preempted"
    HOST_LOST = "host_lost"
    UNPAID = "unpaid"


class ReservationState(StrEnum):
    """Of an advance reservation. That it has begun or is over, its times say."""

    BOOKED = "booked"  # -> cancelled
    CANCELLED = "cancelled"  # terminal


class EnvironmentDesired(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DELETED = "deleted"


class EnvironmentState(StrEnum):
    """What was observed of an environment."""

    QUEUED = "queued"  # -> starting, stopped, failed
    STARTING = "starting"  # -> running, stopping, stopped, failed, queued (its host was lost before it ran)
    RUNNING = "running"  # -> paused, stopping, stopped, failed
    PAUSED = "paused"  # -> running, stopping, stopped, failed
    STOPPING = "stopping"  # -> stopped, failed
    STOPPED = "stopped"  # -> queued, deleted
    FAILED = "failed"  # -> queued, deleted
    DELETED = "deleted"  # terminal


class TaskState(StrEnum):
    """Of a task, and of each started element of an array. What was asked for in `stopping`, the attempt's end says."""

    BLOCKED = "blocked"  # -> queued (its parents ended as it asks), cancelled (also: they can no longer do so)
    QUEUED = "queued"  # -> starting (its allocation is active), cancelled, failed (what it needs is no more)
    STARTING = "starting"  # image, working directory, setup. -> running, stopping
    RUNNING = "running"  # the command. -> stopping
    STOPPING = "stopping"  # -> queued (preempted, host lost, or tried again), or one of the four ends
    SUCCEEDED = "succeeded"  # terminal
    FAILED = "failed"  # terminal
    CANCELLED = "cancelled"  # terminal
    TIMED_OUT = "timed_out"  # terminal


class AttemptState(StrEnum):
    """Of one try to run a task, with an allocation of its own. Every end goes through `stopping`."""

    STARTING = "starting"  # -> running, stopping
    RUNNING = "running"  # -> stopping
    STOPPING = "stopping"  # until each host has confirmed that its containers are gone, or is lost. -> ended
    ENDED = "ended"  # terminal


class AttemptEnd(StrEnum):
    """Why an attempt ended; set when it enters `stopping`. The first reason stays."""

    EXITED = "exited"  # by itself: its exit code or signal says how
    OUT_OF_MEMORY = "out_of_memory"  # which limit it was stands beside it
    TIMED_OUT = "timed_out"
    PREEMPTED = "preempted"
    HOST_LOST = "host_lost"  # or cut off for longer than it may be
    IMAGE_MISSING = "image_missing"
    SETUP_FAILED = "setup_failed"
    START_FAILED = "start_failed"  # the host could not make its container
    DISK_FULL = "disk_full"
    CANCELLED = "cancelled"
    UNPAID = "unpaid"


class DeviceStatus(StrEnum):
    """What was observed of a host."""

    UNKNOWN = "unknown"  # enrolled, never heard of since
    ONLINE = "online"
    DEGRADED = "degraded"  # answers, but something it needs for new work does not
    UNREACHABLE = "unreachable"  # no sign of life; its leases may still run, so nothing is freed
    LOST = "lost"  # every lease's run_until passed with a margin, or the host reported a new boot


REACHABLE = frozenset({DeviceStatus.ONLINE, DeviceStatus.DEGRADED})
"""What runs on such a host can be told to end."""


class AdminState(StrEnum):
    """What the operator wants of a host."""

    AVAILABLE = "available"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


class AllocationStatus(StrEnum):
    """How much of a host is given out: derived from its leases, never stored."""

    IDLE = "idle"
    PARTIAL = "partial"
    FULL = "full"


_A, _E, _D, _S, _R = AllocationState, EnvironmentState, DeviceStatus, AdminState, ReservationState
_T, _P = TaskState, AttemptState

ALLOCATION: Mapping[AllocationState, frozenset[AllocationState]] = {
    _A.QUEUED: frozenset({_A.PLACING, _A.RELEASED}),
    _A.PLACING: frozenset({_A.ACTIVE, _A.QUEUED, _A.RELEASING}),
    _A.ACTIVE: frozenset({_A.RELEASING}),
    _A.RELEASING: frozenset({_A.RELEASED}),
    _A.RELEASED: frozenset(),
}

RESERVATION: Mapping[ReservationState, frozenset[ReservationState]] = {
    _R.BOOKED: frozenset({_R.CANCELLED}),
    _R.CANCELLED: frozenset(),
}

ENVIRONMENT: Mapping[EnvironmentState, frozenset[EnvironmentState]] = {
    _E.QUEUED: frozenset({_E.STARTING, _E.STOPPED, _E.FAILED}),
    _E.STARTING: frozenset({_E.RUNNING, _E.STOPPING, _E.STOPPED, _E.FAILED, _E.QUEUED}),
    _E.RUNNING: frozenset({_E.PAUSED, _E.STOPPING, _E.STOPPED, _E.FAILED}),
    _E.PAUSED: frozenset({_E.RUNNING, _E.STOPPING, _E.STOPPED, _E.FAILED}),
    _E.STOPPING: frozenset({_E.STOPPED, _E.FAILED}),
    _E.STOPPED: frozenset({_E.QUEUED, _E.DELETED}),
    _E.FAILED: frozenset({_E.QUEUED, _E.DELETED}),
    _E.DELETED: frozenset(),
}

TASK: Mapping[TaskState, frozenset[TaskState]] = {
    _T.BLOCKED: frozenset({_T.QUEUED, _T.CANCELLED}),
    _T.QUEUED: frozenset({_T.STARTING, _T.CANCELLED, _T.FAILED}),
    _T.STARTING: frozenset({_T.RUNNING, _T.STOPPING}),
    _T.RUNNING: frozenset({_T.STOPPING}),
    _T.STOPPING: frozenset({_T.QUEUED, _T.SUCCEEDED, _T.FAILED, _T.CANCELLED, _T.TIMED_OUT}),
    _T.SUCCEEDED: frozenset(),
    _T.FAILED: frozenset(),
    _T.CANCELLED: frozenset(),
    _T.TIMED_OUT: frozenset(),
}

ATTEMPT: Mapping[AttemptState, frozenset[AttemptState]] = {
    _P.STARTING: frozenset({_P.RUNNING, _P.STOPPING}),
    _P.RUNNING: frozenset({_P.STOPPING}),
    _P.STOPPING: frozenset({_P.ENDED}),
    _P.ENDED: frozenset(),
}

DEVICE_STATUS: Mapping[DeviceStatus, frozenset[DeviceStatus]] = {
    _D.UNKNOWN: frozenset({_D.ONLINE, _D.DEGRADED}),
    _D.ONLINE: frozenset({_D.DEGRADED, _D.UNREACHABLE, _D.LOST}),
    _D.DEGRADED: frozenset({_D.ONLINE, _D.UNREACHABLE, _D.LOST}),
    _D.UNREACHABLE: frozenset({_D.ONLINE, _D.DEGRADED, _D.LOST}),
    _D.LOST: frozenset({_D.ONLINE, _D.DEGRADED}),
}

ADMIN_STATE: Mapping[AdminState, frozenset[AdminState]] = {
    _S.AVAILABLE: frozenset({_S.DRAINING, _S.MAINTENANCE, _S.RETIRED}),
    _S.DRAINING: frozenset({_S.AVAILABLE, _S.MAINTENANCE, _S.RETIRED}),
    _S.MAINTENANCE: frozenset({_S.AVAILABLE, _S.DRAINING, _S.RETIRED}),
    _S.RETIRED: frozenset({_S.AVAILABLE}),
}

State = TypeVar("State", bound=StrEnum)


class TransitionError(Exception):
    """A transition that the table does not have was asked for."""

    def __init__(self, current: StrEnum, target: StrEnum) -> None:
        super().__init__(f"{type(current).__name__}: {current} -> {target} is not a transition")
        self.current = current
        self.target = target


def check_transition(table: Mapping[State, frozenset[State]], *, current: State, target: State) -> None:
    """Raise TransitionError unless the table leads from `current` to `target`."""
    if target not in table[current]:
        raise TransitionError(current, target)
