"""What the reconciler records of an environment, each in one transaction that reads again what it relies on."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.environments import observation, service
from api.environments.steps import Work
from api.environments.tables import Environment
from api.environments.transitions import move
from api.errors import ApiError, Conflict
from api.images.tables import Image
from api.machines.tables import Host
from api.principal import Caller
from api.settings import Settings
from scheduler.states import AdminState, AllocationState, EndReason, EnvironmentDesired, EnvironmentState

ACTOR = "controller"
_ENDED = (EnvironmentState.STOPPED, EnvironmentState.FAILED)
_UP = (EnvironmentState.STARTING, EnvironmentState.RUNNING, EnvironmentState.PAUSED)
_FAILURES = (EndReason.FAILED, EndReason.HOST_LOST)

_GAVE_WAY = "It gave way to a request with a higher claim; queued again."
_SENTENCES = {
    EndReason.EXPIRED: "Its time ran out.",
    EndReason.PREEMPTED: "It had to give way to a request with a higher claim.",
    EndReason.HOST_LOST: "Its host was lost.",
    EndReason.UNPAID: "The balance did not cover another period.",
    EndReason.FAILED: "It failed.",
}


def record_started(session: Session, *, work: Work) -> None:
    """The Hub has taken the start."""
    if (pair := _lock_current(session, work)) is not None:
        observation.started(session, *pair, actor=ACTOR)


def record_ready(session: Session, *, work: Work) -> None:
    """The Hub says that the server answers."""
    if (pair := _lock_current(session, work)) is not None:
        observation.answered(session, *pair, actor=ACTOR)


def record_failure(session: Session, *, work: Work, error: str) -> None:
    """The Hub could not start it, time and again. What a host said about it is kept: it says more."""
    if (pair := _lock_current(session, work)) is not None:
        environment, allocation = pair
        observation.fail_or_finish(
            session,
            environment,
            allocation,
            end_reason=EndReason.FAILED,
            error=environment.last_error or error,
            actor=ACTOR,
        )


def wind_down(session: Session, *, work: Work) -> None:
    environment = service.lock(session, work.uid)
    if environment.desired != EnvironmentDesired.RUNNING:
        service.wind_down(session, environment, actor=ACTOR, reason=f"desired: {environment.desired}")


def record_stopping(session: Session, *, work: Work) -> None:
    """Its allocation is ending, for whatever reason: it is not to run again until somebody asks, or it gave way."""
    environment = service.lock(session, work.uid)
    allocation = _allocation(session, environment)
    if allocation is not None and allocation.state == AllocationState.RELEASING and environment.observed in _UP:
        if _gave_way(environment, allocation):
            environment.last_error = _GAVE_WAY
        else:
            _give_up(environment, allocation)
        move(session, environment, EnvironmentState.STOPPING, actor=ACTOR, reason=allocation.end_reason or "")


def record_ended(session: Session, *, work: Work, settings: Settings) -> bool:
    """Its allocation has ended: `stopped` or `failed`. One that never came to run, or that had to give way, is queued
    again instead (False)."""
    if _queue_again(session, work, settings):
        return False
    environment = service.lock(session, work.uid)
    allocation = _allocation(session, environment)
    over = environment.observed in (*_ENDED, EnvironmentState.DELETED)
    if over or (allocation is not None and allocation.state != AllocationState.RELEASED):
        return False
    if environment.last_error == _GAVE_WAY:
        environment.last_error = None  # it can't run any more, or its user has stopped it meanwhile
    failed = allocation is None or allocation.end_reason in _FAILURES
    if environment.desired != EnvironmentDesired.RUNNING and environment.last_error is None:
        failed = False  # its user had stopped it before
    if allocation is not None:
        _give_up(environment, allocation)
    if environment.observed in _UP:
        move(session, environment, EnvironmentState.STOPPING, actor=ACTOR)
    target = EnvironmentState.FAILED if failed else EnvironmentState.STOPPED
    move(session, environment, target, actor=ACTOR, reason=environment.last_error or "")
    return True


def volume_host(session: Session, *, work: Work) -> str | None:
    """The host where its volume is to be deleted; None if it has none, or its host has left for good."""
    query = (
        select(Host.uid)
        .join(Environment, Environment.host_id == Host.id)
        .where(Environment.id == work.environment_id, Host.admin_state != AdminState.RETIRED)
    )
    uid = session.scalar(query)
    return str(uid) if uid is not None else None


def record_deleted(session: Session, *, work: Work) -> None:
    environment = service.lock(session, work.uid)
    if environment.desired == EnvironmentDesired.DELETED and environment.observed in _ENDED:
        service.delete_row(session, environment, actor=ACTOR)


def _lock_current(session: Session, work: Work) -> tuple[Environment, Allocation] | None:
    """The environment with its allocation, both locked, if they are still those of `work` and meant to run."""
    environment = service.lock(session, work.uid)
    allocation = _allocation(session, environment)
    if allocation is None or allocation.id != work.allocation_id or allocation.state != AllocationState.ACTIVE:
        return None
    return environment, allocation


def _allocation(session: Session, environment: Environment) -> Allocation | None:
    if environment.allocation_id is None:
        return None
    return session.get(Allocation, environment.allocation_id)


def _give_up(environment: Environment, allocation: Allocation) -> None:
    """An end that its user did not ask for: say why, and do not start again by itself."""
    if environment.desired != EnvironmentDesired.RUNNING:
        return
    environment.desired = EnvironmentDesired.STOPPED
    reason = EndReason(allocation.end_reason) if allocation.end_reason else EndReason.COMPLETED
    sentence = _SENTENCES.get(reason)
    if environment.last_error is None and sentence is not None:
        detail = f" ({allocation.end_detail})" if allocation.end_detail else ""
        environment.last_error = f"{sentence.removesuffix('.')}{detail}."


def _queue_again(session: Session, work: Work, settings: Settings) -> bool:
    """Work that was accepted and lost its host before it ran, or gave way, goes back to the queue (invariant I8)."""
    environment = session.get_one(Environment, work.environment_id)
    allocation = _allocation(session, environment)
    if allocation is None or allocation.state != AllocationState.RELEASED or not _comes_back(environment, allocation):
        return False
    image = session.get_one(Image, environment.image_id)
    caller = Caller(environment.user_id, environment.customer_id, ACTOR)
    try:
        with session.begin_nested():
            following = service.queue(session, settings, caller, environment, image, again=True)
    except ApiError:
        return False  # it could not run any more
    session.refresh(environment, with_for_update=True)
    if environment.allocation_id != allocation.id or environment.desired != EnvironmentDesired.RUNNING:
        raise Conflict("It was changed at this very moment.", code="environment_changed")
    environment.allocation_id = following.id
    if _gave_way(environment, allocation):
        environment.last_error = _GAVE_WAY
        _back_to_queue(session, environment)
    return True


def _comes_back(environment: Environment, allocation: Allocation) -> bool:
    if _gave_way(environment, allocation):
        return True
    never_ran = environment.observed == EnvironmentState.QUEUED and environment.host_id is None
    wanted = environment.desired == EnvironmentDesired.RUNNING
    return allocation.end_reason == EndReason.HOST_LOST and never_ran and wanted


def _gave_way(environment: Environment, allocation: Allocation) -> bool:
    """Whether it was preempted, and nobody has stopped it meanwhile."""
    wanted = environment.desired == EnvironmentDesired.RUNNING and environment.observed not in _ENDED
    return allocation.end_reason == EndReason.PREEMPTED and wanted


def _back_to_queue(session: Session, environment: Environment) -> None:
    if environment.observed in _UP:
        move(session, environment, EnvironmentState.STOPPING, actor=ACTOR)
    if environment.observed == EnvironmentState.STOPPING:
        move(session, environment, EnvironmentState.STOPPED, actor=ACTOR, reason=_GAVE_WAY)
        move(session, environment, EnvironmentState.QUEUED, actor=ACTOR, reason="queued again")
