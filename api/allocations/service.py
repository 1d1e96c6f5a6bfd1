"""Asking for an allocation, and asking for its end. What happens in between is the controller's."""

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from api.allocations import claims
from api.allocations.claims import Claim
from api.allocations.tables import Allocation, AllocationEvent
from api.allocations.transitions import move, notify
from api.clock import utc_now
from api.errors import Conflict, Forbidden, Unprocessable
from api.identity.tables import User
from api.quotas.limits import Path
from api.quotas.service import Asked, check_submission
from api.tenants.tables import Customer
from scheduler.demand import Demand, Version
from scheduler.host_protocol import LeaseKind
from scheduler.states import AllocationState, EndReason

MAX_DISCONNECT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to run in an allocation, for whom, and how it ends. Each field is a column of the allocation's.

    `disconnect_s` is how long it may run cut off from the platform, `grace_s` from the word that it has to end to the
    end (None: the platform's own), `shm_bytes` the part of its memory that is /dev/shm (None: half of it).
    """

    kind: str
    workspace_id: int
    user_id: int
    container_name: str
    home_volume: str | None
    disk_bytes: int
    disconnect_s: int
    grace_s: int | None = None
    shm_bytes: int | None = None


def submit(
    session: Session, *, claim: Claim, demand: Demand, workload: Workload, actor: str, again: bool = False
) -> Allocation:
    """Queue a request, in the caller's transaction, and wake the controller at commit.

    With `again` it is work that was accepted before, which a full queue does not refuse. Where quotas limit how long a
    lease may last, that is its time limit if it names none.

    Raises:
        Unprocessable: as `claims.check` and `claims.in_group` say, or `bad_request` for figures out of range.
        Forbidden: the user or customer whom it is for was disabled (`account_disabled`).
        api.errors.ApiError: as `api.quotas.service.check_submission` raises.
    """
    if not 1 <= workload.disconnect_s <= MAX_DISCONNECT.total_seconds():
        raise Unprocessable(f"disconnect_s must be from 1 to {MAX_DISCONNECT.total_seconds():.0f}.", code="bad_request")
    demand = claims.in_group(claim, demand)
    models = claims.check(session, claim, demand)
    asked = Asked(demand.counted(task=workload.kind == LeaseKind.TASK), claim.run.time_limit_s, models)
    path = Path(claim.customer_id, workload.workspace_id, workload.user_id)
    limit_s = check_submission(session, path, asked, again=again)
    _check_not_shut_out(session, workload.user_id)
    allocation = Allocation(
        customer_id=claim.customer_id,
        state=AllocationState.QUEUED,
        queued_at=utc_now(),
        **asdict(workload),
        **_demanded(demand),
        **_claimed(claim),
        limit_s=limit_s,
    )
    session.add(allocation)
    session.flush()
    session.add(AllocationEvent(allocation_id=allocation.id, actor=actor, to_state=AllocationState.QUEUED))
    notify(session)
    return allocation


def request_end(
    session: Session, allocation: Allocation, *, end_reason: EndReason, actor: str, reason: str = ""
) -> None:
    """Ask for the end of an allocation: a queued one is released at once, a placed one goes to `releasing`.

    Nothing happens to one that is ending or has ended. The row is locked here, and read again.
    """
    session.refresh(allocation, with_for_update=True)
    match AllocationState(allocation.state):
        case AllocationState.QUEUED:
            target = AllocationState.RELEASED
            allocation.wait_reason = None
        case AllocationState.PLACING | AllocationState.ACTIVE:
            target = AllocationState.RELEASING
        case AllocationState.RELEASING | AllocationState.RELEASED:
            return
    move(session, allocation, target, actor=actor, reason=reason, end_reason=end_reason)


def note_checkpoint(session: Session, allocation: Allocation) -> None:
    """What it has done up to now is safe: so much less is lost if it has to give way.

    Raises:
        Conflict: it does not run (`not_running`).
    """
    session.refresh(allocation, with_for_update=True)
    if allocation.state != AllocationState.ACTIVE:
        raise Conflict("Only what runs has work that can be safe.", code="not_running")
    allocation.checkpoint_at = utc_now()
    notify(session)


def _check_not_shut_out(session: Session, user_id: int) -> None:
    """Under the customer's lock, which disabling takes too: who was let in a moment ago queues nothing after it."""
    shut_out = or_(User.disabled_at.is_not(None), Customer.disabled_at.is_not(None))
    query = select(User.id).join(Customer, Customer.id == User.customer_id).where(User.id == user_id, shut_out)
    if session.scalar(query) is not None:
        raise Forbidden("The account that it is for is disabled; ask your administrator.", code="account_disabled")


def _demanded(demand: Demand) -> dict[str, Any]:  # Any: columns by name
    return {
        "nodes": demand.nodes,
        "gpus": demand.shape.gpus,
        "milli": demand.shape.milli,
        "gpu_models": list(demand.models),
        "gpu_memory_bytes": demand.gpu_memory_bytes,
        "selectors": [asdict(selector) for selector in demand.selectors],
        "driver_min": _dotted(demand.driver),
        "cuda_min": _dotted(demand.cuda),
        "apart": demand.apart,
        "within_level": demand.within,
        "cpu_milli": demand.shape.cpu_milli,
        "memory_bytes": demand.shape.memory_bytes,
        "bound_host_id": demand.bound_host_id,
        "image_reference": demand.image,
    }


def _claimed(claim: Claim) -> dict[str, Any]:  # Any: columns by name
    run = claim.run
    return {
        "priority": run.priority,
        "preemptible": run.preemptible,
        "min_runtime_s": run.min_runtime_s,
        "capacity_group_id": claim.group.id if claim.group else None,
        "reservation_id": claim.reservation.id if claim.reservation else None,
    }


def _dotted(version: Version) -> str | None:
    return ".".join(map(str, version)) or None
