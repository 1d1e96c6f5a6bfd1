"""Asking for an allocation, and asking for its end. What happens in between is the controller's."""

from datetime import timedelta

from sqlalchemy.orm import Session

from api.allocations import feasibility
from api.allocations.tables import Allocation, AllocationEvent
from api.allocations.transitions import move, notify
from api.clock import utc_now
from api.errors import Unprocessable
from api.quotas.service import check_submission
from scheduler.states import AllocationState, EndReason

MAX_DISCONNECT = timedelta(days=1)


def submit(
    session: Session,
    *,
    customer_id: int,
    workspace_id: int,
    user_id: int,
    kind: str,
    gpus: int,
    gpu_model: str | None,
    cpu_milli: int,
    memory_bytes: int,
    disk_bytes: int,
    bound_host_id: int | None,
    image_reference: str,
    container_name: str,
    home_volume: str | None,
    disconnect_s: int,
    actor: str,
) -> Allocation:
    """Queue a request, in the caller's transaction, and wake the controller at commit.

    `gpu_model` None takes any model, `bound_host_id` is a hard affinity. `disconnect_s` is how long it may run cut off
    from the platform.

    Raises:
        Unprocessable: it could never run: `no_such_model`, `too_many_gpus`, `too_much_memory`, `too_many_cpus`,
            `host_not_available`, `no_price`, or `bad_request` for figures out of range.
        api.errors.ApiError: as `api.quotas.service.check_submission` raises.
    """
    if not 1 <= disconnect_s <= MAX_DISCONNECT.total_seconds():
        raise Unprocessable(f"disconnect_s must be from 1 to {MAX_DISCONNECT.total_seconds():.0f}.", code="bad_request")
    need = feasibility.Need(
        gpus=gpus,
        gpu_model=gpu_model,
        cpu_milli=cpu_milli,
        memory_bytes=memory_bytes,
        bound_host_id=bound_host_id,
    )
    models = feasibility.check(feasibility.load_offers(session), need)
    feasibility.check_price(session, models, customer_id=customer_id)
    check_submission(session, customer_id=customer_id, gpus=gpus, cpu_milli=cpu_milli, memory_bytes=memory_bytes)
    allocation = Allocation(
        customer_id=customer_id,
        workspace_id=workspace_id,
        user_id=user_id,
        kind=kind,
        state=AllocationState.QUEUED,
        queued_at=utc_now(),
        gpus=gpus,
        gpu_models=[] if gpu_model is None else [gpu_model],
        cpu_milli=cpu_milli,
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes,
        bound_host_id=bound_host_id,
        image_reference=image_reference,
        container_name=container_name,
        home_volume=home_volume,
        disconnect_s=disconnect_s,
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
