"""What hosts and the Hub report of an environment's container, turned into what is observed of the environment."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.environments.tables import Environment
from api.environments.transitions import move
from api.ids import parse_uid
from scheduler.host_protocol import ContainerReport, ContainerState, EndNotice
from scheduler.states import AllocationState, EndReason, EnvironmentDesired, EnvironmentState

_BEFORE_RUNNING = (EnvironmentState.QUEUED, EnvironmentState.STARTING)
_UP = (EnvironmentState.STARTING, EnvironmentState.RUNNING, EnvironmentState.PAUSED)
# What a report of a container says something new of.
_NEWS = {
    ContainerState.RUNNING: (EnvironmentState.QUEUED,),
    ContainerState.EXITED: (EnvironmentState.QUEUED, *_UP),
}


def news(session: Session, *, host_id: int, reports: Sequence[ContainerReport]) -> list[ContainerReport]:
    """Those that may change something: a cheap look without locks, since most reports say nothing new."""
    if not reports:
        return []
    query = (
        select(Allocation.uid, Allocation.generation, Environment.observed)
        .join(Environment, Environment.allocation_id == Allocation.id)
        .where(
            Allocation.uid.in_([parse_uid(report.allocation_uid) for report in reports]),
            Allocation.host_id == host_id,
            Allocation.state == AllocationState.ACTIVE,
        )
    )
    observed = {(str(uid), generation): EnvironmentState(state) for uid, generation, state in session.execute(query)}
    return [r for r in reports if observed.get((r.allocation_uid, r.generation)) in _NEWS.get(r.state, ())]


def container_reported(session: Session, *, host_id: int, report: ContainerReport, actor: str) -> None:
    """Take over a report of the current generation's container; any other changes nothing (invariant I4)."""
    allocation = session.scalar(
        select(Allocation).where(Allocation.uid == parse_uid(report.allocation_uid)).with_for_update()
    )
    if allocation is None or allocation.generation != report.generation or allocation.host_id != host_id:
        return
    environment = lock_of_allocation(session, allocation)
    if environment is None or allocation.state != AllocationState.ACTIVE:
        return
    if report.state is ContainerState.RUNNING:
        started(session, environment, allocation, actor=actor)
    elif report.state is ContainerState.EXITED:
        _exited(session, environment, allocation, report, actor=actor)


def ended_by_host(session: Session, *, host_id: int, ending: EndNotice, actor: str) -> None:
    """The host has ended a lease by itself, and says why."""
    allocation = session.scalar(
        select(Allocation).where(Allocation.uid == parse_uid(ending.allocation_uid)).with_for_update()
    )
    if allocation is None or allocation.generation != ending.generation or host_id not in allocation.host_ids:
        return
    environment = lock_of_allocation(session, allocation)
    if environment is None or allocation.state != AllocationState.ACTIVE:
        request_end(session, allocation, end_reason=EndReason.FAILED, actor=actor, reason=ending.detail)
    else:
        fail_or_finish(session, environment, allocation, end_reason=EndReason.FAILED, error=ending.detail, actor=actor)


def lock_of_allocation(session: Session, allocation: Allocation) -> Environment | None:
    """The environment whose current allocation this is, locked; the caller has locked the allocation."""
    query = select(Environment).where(Environment.allocation_id == allocation.id).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def started(session: Session, environment: Environment, allocation: Allocation, *, actor: str) -> None:
    """The container runs: `starting`, and bound to the host from now on, since its volume lives there."""
    if environment.observed == EnvironmentState.QUEUED:
        environment.host_id = allocation.host_id
        move(session, environment, EnvironmentState.STARTING, actor=actor)


def answered(session: Session, environment: Environment, allocation: Allocation, *, actor: str) -> None:
    """The single-user server answers: `running`."""
    started(session, environment, allocation, actor=actor)
    if environment.observed == EnvironmentState.STARTING:
        environment.last_error = None
        move(session, environment, EnvironmentState.RUNNING, actor=actor)


def given_up(session: Session, environment: Environment, allocation: Allocation, *, error: str, actor: str) -> None:
    """The Hub has ended the container by itself. Before it ran that is one start of several, and no wish to stop."""
    if environment.observed in _BEFORE_RUNNING:
        environment.last_error = error
    else:
        fail_or_finish(session, environment, allocation, end_reason=EndReason.FAILED, error=error, actor=actor)


def _exited(
    session: Session, environment: Environment, allocation: Allocation, report: ContainerReport, *, actor: str
) -> None:
    started(session, environment, allocation, actor=actor)
    error = describe_exit(exit_code=report.exit_code, oom_killed=report.oom_killed)
    end_reason = EndReason.COMPLETED if error is None else EndReason.FAILED
    fail_or_finish(session, environment, allocation, end_reason=end_reason, error=error, actor=actor)


def fail_or_finish(
    session: Session,
    environment: Environment,
    allocation: Allocation,
    *,
    end_reason: EndReason,
    error: str | None,
    actor: str,
) -> None:
    """The environment has ended by itself: it is not started again unless its owner asks."""
    if environment.desired == EnvironmentDesired.RUNNING:
        environment.desired = EnvironmentDesired.STOPPED
        environment.last_error = error
    request_end(session, allocation, end_reason=end_reason, actor=actor, reason=error or "")
    if environment.observed in _UP:
        move(session, environment, EnvironmentState.STOPPING, actor=actor, reason=error or "")


def describe_exit(*, exit_code: int | None, oom_killed: bool) -> str | None:
    """A sentence for people, None for a clean exit. 143 is SIGTERM's: how a stop that was asked for looks."""
    if oom_killed:
        return "It used more memory than it has and was ended; start it again with more."
    if exit_code in (0, 143, None):
        return None
    return f"Its server ended with exit code {exit_code}."
