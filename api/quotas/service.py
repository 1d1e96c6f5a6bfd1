"""Quotas: checked at submission against what could never run, and at placing against what is held."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.errors import Unprocessable
from api.quotas.tables import Quota
from api.tenants.tables import Customer, Setting
from scheduler.quota import Limits, Resources, shortage
from scheduler.states import AllocationState

DEFAULTS_KEY = "default_quota"
"""The platform setting with the defaults: `{gpus, cpu_milli, memory_bytes, queued}`, each may be missing or null."""

_HOLDING = (AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)


def default_limits(session: Session) -> Limits:
    """What applies to a customer without limits of their own."""
    stored = session.scalar(select(Setting.value).where(Setting.key == DEFAULTS_KEY))
    stored = stored if isinstance(stored, dict) else {}
    known = {name: value for name in Limits.__slots__ if isinstance(value := stored.get(name), int)}
    return Limits(**known)


def effective_limits(session: Session, customer_id: int) -> Limits:
    """A customer's limits: their own row's, and the default where it has none."""
    default, own = default_limits(session), session.get(Quota, customer_id)
    if own is None:
        return default
    return Limits(
        gpus=default.gpus if own.gpus is None else own.gpus,
        cpu_milli=default.cpu_milli if own.cpu_milli is None else own.cpu_milli,
        memory_bytes=default.memory_bytes if own.memory_bytes is None else own.memory_bytes,
        queued=default.queued if own.queued is None else own.queued,
    )


def check_submission(
    session: Session, customer_id: int, *, gpus: int, cpu_milli: int, memory_bytes: int, again: bool = False
) -> None:
    """Refuse what could never run, or one request too many in the queue, which one that comes `again` never is.

    Locks the customer's row, so that submissions racing each other are counted one after another.

    Raises:
        Unprocessable: `quota_exceeded` or `queue_limit`.
    """
    session.execute(select(Customer.id).where(Customer.id == customer_id).with_for_update())
    limits = check_ever(session, customer_id, gpus=gpus, cpu_milli=cpu_milli, memory_bytes=memory_bytes)
    if again:
        return
    query = select(func.count()).where(
        Allocation.customer_id == customer_id, Allocation.state == AllocationState.QUEUED
    )
    if session.scalars(query).one() >= limits.queued:
        raise Unprocessable(
            f"{limits.queued} requests are waiting already, the most that may; cancel one, or wait until one starts.",
            code="queue_limit",
        )


def check_ever(session: Session, customer_id: int, *, gpus: int, cpu_milli: int, memory_bytes: int) -> Limits:
    """The customer's limits, if they allow as much at all, whatever is held now.

    Raises:
        Unprocessable: `quota_exceeded`.
    """
    limits = effective_limits(session, customer_id)
    asked = Resources(gpus, cpu_milli, memory_bytes)
    if lacking := shortage(limits, held=Resources(0, 0, 0), asked=asked):
        raise Unprocessable(
            f"This could never run: {lacking}. Ask for less, or for a larger quota.", code="quota_exceeded"
        )
    return limits


def shortfall(session: Session, customer_id: int, *, gpus: int, cpu_milli: int, memory_bytes: int) -> str | None:
    """Which limit stands against placing a request now, in words; None if none does.

    The caller holds `select ... from customers for update`: that is what keeps two placings from both fitting.
    """
    held = held_resources(session, customer_id)
    return shortage(effective_limits(session, customer_id), held=held, asked=Resources(gpus, cpu_milli, memory_bytes))


def held_resources(session: Session, customer_id: int) -> Resources:
    """What a customer's placed, running and releasing allocations hold."""
    query = select(
        func.coalesce(func.sum(Allocation.gpus), 0),
        func.coalesce(func.sum(Allocation.cpu_milli), 0),
        func.coalesce(func.sum(Allocation.memory_bytes), 0),
    ).where(Allocation.customer_id == customer_id, Allocation.state.in_(_HOLDING))
    gpus, cpu_milli, memory_bytes = session.execute(query).one()
    return Resources(int(gpus), int(cpu_milli), int(memory_bytes))
