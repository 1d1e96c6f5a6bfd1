"""Creating, starting, stopping and deleting environments. What follows is the scheduler's and the reconciler's."""

import secrets
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.allocations import claims
from api.allocations.claims import Claim
from api.allocations.request import RunOptions, SchedulingOptions, demand_of
from api.allocations.service import Workload, request_end, submit
from api.allocations.tables import Allocation
from api.audit import service as audit
from api.clock import utc_now
from api.environments.schemas import EnvironmentCreate
from api.environments.tables import Environment, EnvironmentEvent
from api.environments.transitions import move
from api.errors import Conflict, NotFound, Unprocessable
from api.ids import new_uid
from api.images.tables import Image
from api.principal import Caller
from api.quotas.limits import Path
from api.quotas.service import check_environment
from api.settings import Settings
from api.tenants import workspaces
from scheduler.states import AllocationState, EndReason, EnvironmentDesired, EnvironmentState

KIND = "environment"
_ENDED = (EnvironmentState.STOPPED, EnvironmentState.FAILED)
_UP = (EnvironmentState.STARTING, EnvironmentState.RUNNING, EnvironmentState.PAUSED)


def create(session: Session, settings: Settings, caller: Caller, wanted: EnvironmentCreate) -> Environment:
    """Create an environment and queue its first allocation, in the caller's transaction.

    Raises:
        Unprocessable: `unknown_image`, `unknown_workspace`, `no_such_model` and the other refusals of `submit`.
        Conflict: `name_taken`.
    """
    image = _image(session, wanted.image)
    workspace_id = workspaces.find_id(session, customer_id=caller.customer_id, name=wanted.workspace)
    _check_name(session, caller, wanted.name)
    options = wanted.scheduling
    claim = claims.find(session, customer_id=caller.customer_id, run=options, now=utc_now())
    size = claims.size_of(claim, options, gpus=wanted.gpus)
    environment = Environment(
        uid=new_uid(),
        customer_id=caller.customer_id,
        workspace_id=workspace_id,
        user_id=caller.user_id,
        name=wanted.name,
        image_id=image.id,
        gpus=wanted.gpus,
        cpu_milli=wanted.cpu_milli or size.cpu_milli,
        memory_bytes=wanted.memory_bytes or size.memory_bytes,
        disk_bytes=wanted.disk_bytes or size.disk_bytes,
        scheduling=_kept(options),
        desired=EnvironmentDesired.RUNNING,
        observed=EnvironmentState.QUEUED,
    )
    # Before the row is written: `submit` locks the customer's row, which a foreign key to it would have shared.
    environment.allocation_id = _submit(session, settings, caller, environment, image, claim).id
    check_environment(session, Path(caller.customer_id, workspace_id, caller.user_id))
    try:
        with session.begin_nested():
            session.add(environment)
            session.flush()
    except IntegrityError as error:
        raise _name_taken(wanted.name) from error
    _event(session, environment, caller.actor, to_state=EnvironmentState.QUEUED, reason="created")
    _audit(session, caller, environment, "create")
    return environment


def start(
    session: Session, settings: Settings, caller: Caller, uid: UUID, run: RunOptions | None = None
) -> Environment:
    """Queue a stopped environment again, with a new allocation; nothing happens to one that is on its way.

    What `run` names replaces how it was queued before.

    Raises:
        Conflict: `environment_stopping`, it must have stopped first.
        NotFound: it is being deleted.
        Unprocessable: as `submit` refuses.
    """
    environment = _read(session, uid)
    if environment.desired == EnvironmentDesired.RUNNING and environment.observed not in _ENDED:
        return environment
    _check_startable(environment)
    image = session.get_one(Image, environment.image_id)
    changes = run.model_dump(exclude_unset=True) if run is not None else {}
    options = options_of(environment).model_copy(update=changes)
    allocation = queue(session, settings, caller, environment, image, options=options)
    # Only now: the customer's row, which `submit` locks, comes before an environment's.
    session.refresh(environment, with_for_update=True)
    _check_startable(environment)
    environment.scheduling = _kept(options)
    resume(session, environment, allocation, actor=caller.actor)
    _audit(session, caller, environment, "start")
    return environment


def resume(session: Session, environment: Environment, allocation: Allocation, *, actor: str) -> None:
    """Put a new allocation under an environment that the caller has locked."""
    environment.desired = EnvironmentDesired.RUNNING
    environment.allocation_id = allocation.id
    environment.last_error = None
    move(session, environment, EnvironmentState.QUEUED, actor=actor, reason="started")


def stop(session: Session, caller: Caller, uid: UUID, *, delete: bool = False) -> Environment:
    """Give its GPUs back; with `delete`, its volume goes too, once it has stopped. Idempotent."""
    environment = lock(session, uid)
    desired = EnvironmentDesired.DELETED if delete else EnvironmentDesired.STOPPED
    if environment.desired in (desired, EnvironmentDesired.DELETED):
        return environment
    _event(session, environment, caller.actor, to_state=environment.observed, reason=f"desired: {desired}")
    environment.desired = desired
    _audit(session, caller, environment, "delete" if delete else "stop")
    wind_down(session, environment, actor=caller.actor, reason="stopped by its user")
    return environment


def wind_down(session: Session, environment: Environment, *, actor: str, reason: str) -> None:
    """Ask for the end of what runs under an environment that is not to run. The caller has locked it with `lock`."""
    allocation = session.get(Allocation, environment.allocation_id)
    if allocation is not None:
        queued = allocation.state in (AllocationState.QUEUED, AllocationState.PLACING)
        end_reason = EndReason.CANCELLED if queued else EndReason.COMPLETED
        request_end(session, allocation, end_reason=end_reason, actor=actor, reason=reason)
    if environment.observed in _UP:
        move(session, environment, EnvironmentState.STOPPING, actor=actor, reason=reason)
    released = allocation is None or allocation.state == AllocationState.RELEASED
    if released and environment.observed in (EnvironmentState.QUEUED, EnvironmentState.STOPPING):
        move(session, environment, EnvironmentState.STOPPED, actor=actor, reason=reason)
    never_ran = environment.host_id is None and environment.observed in _ENDED
    if never_ran and environment.desired == EnvironmentDesired.DELETED:
        delete_row(session, environment, actor=actor)


def delete_row(session: Session, environment: Environment, *, actor: str) -> None:
    """The last step of a deletion: its volume is gone. The row stays, for the bills that name it."""
    environment.deleted_at = utc_now()
    move(session, environment, EnvironmentState.DELETED, actor=actor)


def lock(session: Session, uid: UUID) -> Environment:
    """Lock an environment with its current allocation, the allocation first.

    Raises:
        NotFound: there is no such environment.
        Conflict: `environment_changed`, it was started again at this very moment.
    """
    allocation_id = _read(session, uid).allocation_id
    if allocation_id is not None:
        session.get_one(Allocation, allocation_id, with_for_update=True, populate_existing=True)
    query = select(Environment).where(Environment.uid == uid).with_for_update()
    environment = session.scalars(query.execution_options(populate_existing=True)).one()
    if environment.allocation_id != allocation_id:
        raise Conflict("It was started at this very moment; try again.", code="environment_changed")
    return environment


def options_of(environment: Environment) -> SchedulingOptions:
    return SchedulingOptions.model_validate(environment.scheduling)


def queue(
    session: Session,
    settings: Settings,
    caller: Caller,
    environment: Environment,
    image: Image,
    *,
    options: SchedulingOptions | None = None,
    again: bool = False,
) -> Allocation:
    """A new allocation for an environment, by these options or those that it has. `again` as `submit` has it.

    Raises:
        Unprocessable: as `submit` refuses.
    """
    options = options or options_of(environment)
    claim = claims.find(session, customer_id=environment.customer_id, run=options, now=utc_now())
    return _submit(session, settings, caller, environment, image, claim, options=options, again=again)


def _submit(
    session: Session,
    settings: Settings,
    caller: Caller,
    environment: Environment,
    image: Image,
    claim: Claim,
    *,
    options: SchedulingOptions | None = None,
    again: bool = False,
) -> Allocation:
    demand = demand_of(
        options or options_of(environment),
        gpus=environment.gpus,
        cpu_milli=environment.cpu_milli,
        memory_bytes=environment.memory_bytes,
        bound_host_id=environment.host_id,
        image=image.reference,
    )
    workload = Workload(
        kind=KIND,
        workspace_id=environment.workspace_id,
        user_id=environment.user_id,
        # A name of its own for each allocation: an older one's container can never be taken for this one's.
        container_name=f"rg-env-{environment.uid}-{secrets.token_hex(4)}",
        home_volume=f"rg-home-{environment.uid}",
        disk_bytes=environment.disk_bytes,
        disconnect_s=settings.environment_disconnect_s,
    )
    return submit(session, claim=claim, demand=demand, workload=workload, actor=caller.actor, again=again)


def _kept(options: SchedulingOptions) -> dict[str, Any]:  # Any: JSON
    return options.model_dump(mode="json", exclude_defaults=True)


def _read(session: Session, uid: UUID) -> Environment:
    environment = session.scalar(select(Environment).where(Environment.uid == uid))
    if environment is None or environment.observed == EnvironmentState.DELETED:
        raise NotFound("There is no such environment.")
    return environment


def _check_startable(environment: Environment) -> None:
    if environment.desired == EnvironmentDesired.DELETED:
        raise NotFound("The environment is being deleted.")
    if environment.observed not in _ENDED:
        raise Conflict("It is still stopping; start it again when it has stopped.", code="environment_stopping")


def _image(session: Session, name: str) -> Image:
    image = session.scalar(select(Image).where(Image.name == name, Image.enabled))
    if image is None:
        raise Unprocessable(f"There is no image {name!r}; see /customer/images.", code="unknown_image")
    return image


def _check_name(session: Session, caller: Caller, name: str) -> None:
    query = select(Environment.id).where(
        Environment.user_id == caller.user_id,
        Environment.name == name,
        Environment.observed != EnvironmentState.DELETED,
    )
    if session.scalar(query) is not None:
        raise _name_taken(name)


def _name_taken(name: str) -> Conflict:
    return Conflict(f"You have an environment {name!r} already; choose another name.", code="name_taken")


def _event(session: Session, environment: Environment, actor: str, *, to_state: str, reason: str) -> None:
    session.add(EnvironmentEvent(environment_id=environment.id, actor=actor, to_state=to_state, reason=reason))


def _audit(session: Session, caller: Caller, environment: Environment, action: str) -> None:
    audit.record(
        session,
        actor=caller.actor,
        action=f"environment.{action}",
        target=f"environment:{environment.uid}",
        customer_id=environment.customer_id,
        address=caller.address,
    )
