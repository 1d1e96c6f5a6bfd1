"""Moving an environment along its state machine: the only code that assigns what was observed of it."""

from sqlalchemy.orm import Session

from api.environments import job_access
from api.environments.tables import Environment, EnvironmentEvent
from api.transition import apply_state
from scheduler.states import ENVIRONMENT, EnvironmentState

_NO_CONTAINER = (
    EnvironmentState.QUEUED,
    EnvironmentState.STOPPED,
    EnvironmentState.FAILED,
    EnvironmentState.DELETED,
)


def move(session: Session, environment: Environment, target: EnvironmentState, *, actor: str, reason: str = "") -> None:
    """Apply a transition to a row that the caller has locked (`with_for_update`).

    Raises:
        scheduler.states.TransitionError: the transition table has no such step.
    """
    event = EnvironmentEvent(environment_id=environment.id, actor=actor, reason=reason)
    apply_state(session, environment, column="observed", table=ENVIRONMENT, target=target, event=event)
    if target in _NO_CONTAINER:
        job_access.withdraw(session, environment)
