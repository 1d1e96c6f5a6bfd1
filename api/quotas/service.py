"""Quotas at submission: what could never be is refused, and what is one too many of what waits or is there.

What may be held now is decided when something is placed (`api.allocations.verdict`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.errors import Unprocessable
from api.quotas.limits import Path, limits_of, limits_on
from api.quotas.usage import Use, count, load_use
from api.tenants.tables import Customer
from scheduler.quota import Lack, Level, Limits, Resources, Scope

Limited = Sequence[tuple[Scope, Limits]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request is going to hold, for how long (None: as long as it may), with any one of these exact models."""

    resources: Resources
    limit_s: int | None = None
    models: Sequence[str] = ()


def check_submission(session: Session, path: Path, asked: Asked, *, again: bool = False) -> int | None:
    """Refuse what could never run, or one request too many in the queue, which one that comes `again` never is.

    Answers its time limit: the longest lease, if it has none of its own. Locks the customer's row, so that submissions
    racing each other are counted one after another.

    Raises:
        Unprocessable: `quota_exceeded` or `queue_limit`.
    """
    session.execute(select(Customer.id).where(Customer.id == path.customer_id).with_for_update())
    limited = limits_on(session, path)
    limit_s = _check_ever(session, path, limited, asked)
    if not again and (found := _too_many(session, path, limited, "queued", 1)) is not None:
        whose = found.scope.level if found.scope is not None else Level.CUSTOMER
        raise Unprocessable(
            f"{found.limit} requests of this {whose} are waiting already, the most that may; cancel one, or wait until "
            "one starts.",
            code="queue_limit",
        )
    return limit_s


def check_ever(session: Session, path: Path, asked: Asked) -> int | None:
    """Refuse what the limits do not allow at all, whatever is held now. Answers as `check_submission`.

    Raises:
        Unprocessable: `quota_exceeded`.
    """
    return _check_ever(session, path, limits_on(session, path), asked)


def _check_ever(session: Session, path: Path, limited: Limited, asked: Asked) -> int | None:
    leases = [limits.lease_s for _, limits in limited if limits.lease_s is not None]
    limit_s = asked.limit_s if asked.limit_s is not None else min(leases, default=None)
    asked = Asked(asked.resources, limit_s, asked.models)
    if _lack(Use(), limited, asked) is not None:
        found = _lack(_use(session, path), limited, asked)
        assert found is not None, "what is too much beside nothing is too much beside something"
        raise Unprocessable(
            f"This could never run: {found.sentence}. Ask for less, or for a larger quota.", code="quota_exceeded"
        )
    return limit_s


def shortfall(session: Session, path: Path, asked: Asked, *, cost_micro: int) -> str | None:
    """Which limit stands against placing a request now, in words; None if none does."""
    limited, use = limits_on(session, path), _use(session, path)
    found = _lack(use, limited, asked)
    lacks = [found, *(use.month_lack(scope, limits, cost_micro) for scope, limits in limited)]
    return next((each.sentence for each in lacks if each is not None), None)


def check_environment(session: Session, path: Path) -> None:
    """Whether there may be one more; the caller has locked the customer's row.

    Raises:
        Unprocessable: `quota_exceeded`.
    """
    _refuse(_too_many(session, path, limits_on(session, path), "environments", 1), "Delete one")


def check_volume(session: Session, path: Path, *, size_bytes: int) -> None:
    """Whether there may be one more, of that size; the caller has locked the customer's row.

    Raises:
        Unprocessable: `quota_exceeded`.
    """
    limited = limits_on(session, path)
    found = _too_many(session, path, limited, "volumes", 1)
    _refuse(found or _too_many(session, path, limited, "volume_bytes", size_bytes), "Delete one")


def check_array(session: Session, path: Path, *, elements: int) -> None:
    """Whether an array may have so many elements. Raises Unprocessable `quota_exceeded`."""
    for scope, limits in limits_on(session, path):
        if limits.array_elements is not None and elements > limits.array_elements:
            _refuse(Lack("array_elements", limits.array_elements, 0, elements, scope), "Make several arrays of it")


def _use(session: Session, path: Path) -> Use:
    customers = {path.customer_id: limits_of(session, path.customer_id)}
    return load_use(session, customers, now=utc_now())


def _lack(use: Use, limited: Limited, asked: Asked) -> Lack | None:
    for scope, limits in limited:
        if found := use.lack(scope, limits, asked.resources, asked.limit_s):
            return found
    gpus, lacks = asked.resources.gpus, list[Lack]()
    for model in asked.models:
        of_model = (use.model_lack(scope, limits, gpus, model) for scope, limits in limited)
        found = next((each for each in of_model if each is not None), None)
        if found is None:
            return None
        lacks.append(found)
    return lacks[0] if lacks else None


def _too_many(session: Session, path: Path, limited: Limited, what: str, more: int) -> Lack | None:
    """`what` is a field of `Limits` that is counted by rows."""
    named = [(scope, limit) for scope, each in limited if (limit := getattr(each, what)) is not None]
    if not named:
        return None
    counts = count(session, path, what)
    lacks = (Lack(what, limit, counts[scope], more, scope) for scope, limit in named)
    return next((each for each in lacks if each.held + more > each.limit), None)


def _refuse(found: Lack | None, advice: str) -> None:
    if found is not None:
        sentence = f"{found.sentence[0].upper()}{found.sentence[1:]}"
        raise Unprocessable(f"{sentence}. {advice}, or ask for a larger quota.", code="quota_exceeded")
