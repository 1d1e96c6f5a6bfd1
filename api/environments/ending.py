"""Stopping in order all that a customer, or one of its users, runs or waits for."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.environments import service
from api.environments.tables import Environment, EnvironmentEvent
from api.tasks import service as tasks
from scheduler.states import AllocationState, EndReason, EnvironmentDesired, EnvironmentState

_TO_RUN = (EnvironmentDesired.RUNNING, EnvironmentDesired.PAUSED)
_ENDING = (AllocationState.RELEASING, AllocationState.RELEASED)


@dataclass(frozen=True, slots=True)
class Owner:
    """A customer, or one user of it."""

    customer_id: int
    user_id: int | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """How many were asked to end: environments with what they hold or wait for, other allocations, and tasks."""

    environments: int
    allocations: int
    tasks: int


def stop_all(session: Session, owner: Owner, *, actor: str, reason: str) -> Stopped:
    """Ask for the end of everything, with the time to end well that any stop gives. Nothing starts again by itself.

    The caller has locked the customer's row: nothing is queued meanwhile.
    """
    environments = _stop_environments(session, owner, actor=actor, reason=reason)
    allocations = _end_allocations(session, owner, actor=actor, reason=reason)
    why = f"It was cancelled: {reason}."
    ended = tasks.cancel_all(session, customer_id=owner.customer_id, user_id=owner.user_id, reason=why)
    return Stopped(environments, allocations, ended)


def _stop_environments(session: Session, owner: Owner, *, actor: str, reason: str) -> int:
    query = select(Environment.uid).where(
        Environment.customer_id == owner.customer_id,
        Environment.observed != EnvironmentState.DELETED,
        Environment.desired.in_(_TO_RUN),
    )
    if owner.user_id is not None:
        query = query.where(Environment.user_id == owner.user_id)
    uids = session.scalars(query.order_by(Environment.id)).all()
    return sum(_stop(session, service.lock(session, uid), actor=actor, reason=reason) for uid in uids)


def _stop(session: Session, environment: Environment, *, actor: str, reason: str) -> bool:
    """Whether it was to run."""
    if environment.desired not in _TO_RUN:
        return False
    environment.desired = EnvironmentDesired.STOPPED
    session.add(
        EnvironmentEvent(
            environment_id=environment.id, actor=actor, from_state=environment.observed,
            to_state=environment.observed, reason=reason,
        )
    )  # fmt: skip
    service.wind_down(session, environment, actor=actor, reason=reason)
    return True


def _end_allocations(session: Session, owner: Owner, *, actor: str, reason: str) -> int:
    """Whatever else holds or waits for devices. Those of the environments are ending already."""
    query = select(Allocation).where(Allocation.customer_id == owner.customer_id, Allocation.state.not_in(_ENDING))
    if owner.user_id is not None:
        query = query.where(Allocation.user_id == owner.user_id)
    allocations = session.scalars(query.order_by(Allocation.id)).all()
    for allocation in allocations:
        request_end(session, allocation, end_reason=EndReason.CANCELLED, actor=actor, reason=reason)
    return len(allocations)
