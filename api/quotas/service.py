"""Quotas: checked at submission against what could never run, and at placing against what is held."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from api.allocations.tables import HOLDS, Allocation
from api.errors import Unprocessable
from api.pipeline import Answer, Pipeline, pipelined
from api.tenants.tables import Customer, Setting
from scheduler.quota import Limits, Resources, shortage

DEFAULTS_KEY = "default_quota"
"""The platform setting with the defaults: `{gpus, cpu_milli, memory_bytes, allocations, queued}`, each may be missing
or null.
"""
_DEFAULTS = text("select value from settings where key = :key")
_QUOTAS = "select customer_id, gpus, cpu_milli, memory_bytes, allocations, queued from quotas where customer_id"
_OWN = text(f"{_QUOTAS} = any(:ids)")
_OWNERS = text(f"{_QUOTAS} in (select customer_id from allocations where id = any(:ids))")
_HELD = text(
    "select customer_id, sum(nodes * gpus), sum(nodes * cpu_milli), sum(nodes * memory_bytes), count(*)"
    f" from allocations where customer_id = any(:ids) and {HOLDS} group by customer_id"
)


def default_limits(session: Session) -> Limits:
    """What applies to a customer without limits of their own."""
    return _limits(session.scalar(select(Setting.value).where(Setting.key == DEFAULTS_KEY)))


def _limits(stored: object) -> Limits:
    """Of the platform setting with the defaults."""
    stored = stored if isinstance(stored, dict) else {}
    known = {name: value for name in Limits.__slots__ if isinstance(value := stored.get(name), int)}
    return Limits(**known)


def effective_limits(session: Session, customer_id: int) -> Limits:
    """A customer's limits: their own row's, and the default where it has none."""
    return limits_of(session, [customer_id])[customer_id]


def limits_of(session: Session, customer_ids: Collection[int]) -> Mapping[int, Limits]:
    """The effective limits of several customers."""
    with pipelined(session) as pipeline:
        return ask_limits(pipeline, customer_ids).of(customer_ids)


@dataclass(frozen=True, slots=True)
class AskedLimits:
    """Limits that were asked for in a pipeline, and are told once."""

    defaults: Answer
    own: Answer

    def of(self, customer_ids: Collection[int]) -> Mapping[int, Limits]:
        """Of those whom it was asked for."""
        default = next((_limits(row.value) for row in self.defaults.all()), _limits(None))
        found = {customer_id: _or_default(default, *values) for customer_id, *values in self.own.all()}
        return {customer_id: found.get(customer_id, default) for customer_id in customer_ids}


def ask_limits(pipeline: Pipeline, customer_ids: Collection[int]) -> AskedLimits:
    return AskedLimits(pipeline.ask(_DEFAULTS, {"key": DEFAULTS_KEY}), pipeline.ask(_OWN, {"ids": list(customer_ids)}))


def ask_limits_of_owners(pipeline: Pipeline, allocation_ids: Sequence[int]) -> AskedLimits:
    """Of the customers whose allocations these are."""
    defaults = pipeline.ask(_DEFAULTS, {"key": DEFAULTS_KEY})
    return AskedLimits(defaults, pipeline.ask(_OWNERS, {"ids": allocation_ids}))


def _or_default(
    default: Limits,
    gpus: int | None,
    cpu_milli: int | None,
    memory_bytes: int | None,
    allocations: int | None,
    queued: int | None,
) -> Limits:
    return Limits(
        gpus=default.gpus if gpus is None else gpus,
        cpu_milli=default.cpu_milli if cpu_milli is None else cpu_milli,
        memory_bytes=default.memory_bytes if memory_bytes is None else memory_bytes,
        allocations=default.allocations if allocations is None else allocations,
        queued=default.queued if queued is None else queued,
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
    query = select(func.count()).where(Allocation.customer_id == customer_id, Allocation.waits())
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
    asked = Resources(gpus, cpu_milli, memory_bytes, allocations=1)
    if lacking := shortage(limits, held=Resources(0, 0, 0), asked=asked):
        raise Unprocessable(
            f"This could never run: {lacking}. Ask for less, or for a larger quota.", code="quota_exceeded"
        )
    return limits


def shortfall(session: Session, customer_id: int, *, gpus: int, cpu_milli: int, memory_bytes: int) -> str | None:
    """Which limit stands against placing a request now, in words; None if none does."""
    held = held_by(session, [customer_id])[customer_id]
    asked = Resources(gpus, cpu_milli, memory_bytes, allocations=1)
    return shortage(effective_limits(session, customer_id), held=held, asked=asked)


def held_by(session: Session, customer_ids: Collection[int]) -> dict[int, Resources]:
    """What the placed, running and releasing allocations of several customers hold, on all their hosts.

    Who is to rely on it holds `select ... from customers for update` of theirs: that is what keeps two placings from
    both fitting.
    """
    held = dict.fromkeys(customer_ids, Resources(0, 0, 0))
    if held:
        for customer_id, *sums in session.execute(_HELD, {"ids": list(held)}):
            held[customer_id] = Resources(*map(int, sums))
    return held
