"""What the reconciler does next for an environment: decided from its row and its allocation's, by a pure function."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.environments.tables import Environment
from api.identity.tables import User
from scheduler.states import AllocationState, EnvironmentDesired, EnvironmentState

BATCH = 500

_ENDED = (EnvironmentState.STOPPED, EnvironmentState.FAILED)


class Step(StrEnum):
    NOTHING = "nothing"
    START = "start"  # tell the Hub to start the server, which waits there until the allocation is active
    CHECK = "check"  # has the server come up?
    WIND_DOWN = "wind_down"  # ask for the end of the allocation
    TELL_STOP = "tell_stop"  # the allocation ends: tell the Hub
    FINISH = "finish"  # the allocation has ended: stopped or failed
    DELETE = "delete"  # its volume, then itself


@dataclass(frozen=True, slots=True)
class Work:
    """One environment as it was read, without locks: each action reads again what it relies on."""

    environment_id: int
    uid: UUID
    username: str
    name: str
    desired: EnvironmentDesired
    observed: EnvironmentState
    allocation_id: int | None
    allocation_state: AllocationState | None


def decide(
    *, desired: EnvironmentDesired, observed: EnvironmentState, allocation_state: AllocationState | None
) -> Step:
    """The next step; `allocation_state` None is an environment without an allocation."""
    if observed is EnvironmentState.DELETED:
        return Step.NOTHING
    if observed in _ENDED:
        return Step.DELETE if desired is EnvironmentDesired.DELETED else Step.NOTHING
    if allocation_state in (None, AllocationState.RELEASED):
        return Step.FINISH
    if allocation_state is AllocationState.RELEASING:
        return Step.TELL_STOP
    if desired is not EnvironmentDesired.RUNNING:
        return Step.WIND_DOWN
    if allocation_state is AllocationState.QUEUED:
        return Step.NOTHING
    match observed:
        case EnvironmentState.QUEUED:
            return Step.START
        case EnvironmentState.STARTING if allocation_state is AllocationState.ACTIVE:
            return Step.CHECK
        case _:
            return Step.NOTHING


def unsettled(session: Session, *, after: int = 0) -> list[Work]:
    """Environments for which there may be something to do: the oldest BATCH of those with ids above `after`."""
    wanted = Environment.desired == EnvironmentDesired.RUNNING
    at_rest = or_(
        and_(wanted, Allocation.state == AllocationState.QUEUED),
        and_(wanted, Allocation.state == AllocationState.ACTIVE, Environment.observed == EnvironmentState.RUNNING),
    )
    over = (*_ENDED, EnvironmentState.DELETED)
    query = (
        select(Environment, Allocation.state, User.username)
        .join(User, User.id == Environment.user_id)
        .outerjoin(Allocation, Allocation.id == Environment.allocation_id)
        .where(Environment.id > after)
        .where(
            or_(
                and_(Environment.observed.not_in(over), at_rest.is_not(True)),
                and_(Environment.observed.in_(_ENDED), Environment.desired == EnvironmentDesired.DELETED),
            )
        )
        .order_by(Environment.id)
        .limit(BATCH)
    )
    return [
        Work(
            environment_id=environment.id,
            uid=environment.uid,
            username=username,
            name=environment.name,
            desired=EnvironmentDesired(environment.desired),
            observed=EnvironmentState(environment.observed),
            allocation_id=environment.allocation_id,
            allocation_state=AllocationState(state) if state is not None else None,
        )
        for environment, state, username in session.execute(query)
    ]
