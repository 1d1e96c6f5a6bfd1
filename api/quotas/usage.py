"""What is used of quotas: held at once, waiting, there, and spent this month, by customer, workspace and user."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from api.allocations.tables import HOLDS, WAITS
from api.clock import to_ms
from api.quotas.limits import CustomerLimits, Path
from scheduler.quota import NOTHING, Lack, Limits, Resources, Scope, lack, lease_lack, model_lack

_BY = "customer_id, workspace_id, user_id"
_HELD = text(
    f"select {_BY}, sum(nodes * gpus)::bigint as gpus, sum(nodes * cpu_milli)::bigint as cpu_milli,"
    " sum(nodes * memory_bytes)::bigint as memory_bytes, count(*) as allocations,"
    f" count(*) filter (where kind = 'task') as tasks from allocations where customer_id = any(:ids) and {HOLDS}"
    f" group by {_BY}"
)
# The devices of an allocation are of one model.
_GPUS = text(
    f"select {_BY}, model, sum(nodes * gpus)::bigint as gpus from allocations a cross join lateral ("
    " select d.model from allocation_devices s join gpus d on d.id = s.gpu_id"
    " where s.allocation_id = a.id and upper_inf(s.period) limit 1) device"
    f" where customer_id = any(:ids) and {HOLDS} and gpus > 0 group by {_BY}, model"
)
# What is set aside, and what was charged for time since the month began: of a meter, which has one price, its part of
# the time.
_SPENT = text(
    """
    select a.customer_id, a.workspace_id, a.user_id,
      trunc(sum(h.amount_micro + coalesce(m.charged, 0)))::bigint as micro
    from holds h join allocations a on a.id = h.allocation_id left join lateral (
      select sum(case when h.starts_ms >= :since_ms or u.proven_ms = 0 then u.charged_micro else
        u.charged_micro::numeric * (
          select coalesce(sum(i.to_ms - greatest(i.from_ms, :since_ms)), 0) from usage_intervals i
          where i.meter_id = u.id and i.to_ms > :since_ms
        ) / u.proven_ms end) as charged
      from usage_meters u where u.allocation_id = h.allocation_id and u.generation = h.generation
    ) m on true
    where h.customer_id = any(:ids) and (h.closed_at is null or h.closed_at >= :since)
    group by a.customer_id, a.workspace_id, a.user_id
    """
)


def _counting(table: str, condition: str, amount: str = "1") -> TextClause:
    def total(condition: str) -> str:
        return f"coalesce(sum({amount}) filter (where {condition}), 0)::bigint"

    return text(
        f"select {total('true')} as customer, {total('workspace_id = :workspace_id')} as workspace,"
        f' {total("user_id = :user_id")} as "user" from {table} where customer_id = :customer_id and {condition}'
    )


_COUNTS = {
    "queued": _counting("allocations", WAITS),
    "environments": _counting("environments", "observed <> 'deleted'"),
    "volumes": _counting("volumes", "deleted_at is null"),
    "volume_bytes": _counting("volumes", "deleted_at is null", "size_bytes"),
}
COUNTED = tuple(_COUNTS)
"""What is counted by its rows: what waits, and what there is."""


@dataclass(slots=True)
class Use:
    """What is held, of which exact models, and what is spent this month, by scope; it grows with what is placed.

    Who is to rely on it holds `select ... from customers for update` of the customers: that is what keeps two placings
    from both fitting.
    """

    held: defaultdict[Scope, Resources] = field(default_factory=lambda: defaultdict(lambda: NOTHING))
    gpus: defaultdict[Scope, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    spent_micro: defaultdict[Scope, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, path: Path, asked: Resources, *, model: str | None, cost_micro: int) -> None:
        for scope in path.scopes:
            self.held[scope] += asked
            self.spent_micro[scope] += cost_micro
            if model is not None:
                self.gpus[scope][model] += asked.gpus

    def lack(self, scope: Scope, limits: Limits, asked: Resources, limit_s: int | None) -> Lack | None:
        """The limit that stands against holding so much more, of whatever model."""
        found = lack(limits, held=self.held[scope], asked=asked, scope=scope)
        return found or lease_lack(limits, limit_s, scope=scope)

    def model_lack(self, scope: Scope, limits: Limits, gpus: int, model: str) -> Lack | None:
        return model_lack(limits, model, held=self.gpus[scope], gpus=gpus, scope=scope)

    def month_lack(self, scope: Scope, limits: Limits, cost_micro: int) -> Lack | None:
        """Whether so much more may be set aside this month. What costs nothing always may."""
        if limits.month_micro is None or not cost_micro:
            return None
        spent = self.spent_micro[scope]
        return (
            Lack("month_micro", limits.month_micro, spent, cost_micro, scope)
            if (spent + cost_micro > limits.month_micro)
            else None
        )


def load_use(
    session: Session, customers: Mapping[int, CustomerLimits], *, now: datetime, everything: bool = False
) -> Use:
    """Of these customers, as far as their limits need it, or all of it. As many statements for many as for one."""
    use = Use()

    def of_those(needed: Callable[[Limits], bool]) -> dict[str, list[int]]:
        limited = [key for key, limits in customers.items() if everything or any(map(needed, limits.all()))]
        return {"ids": limited}

    held, by_model = of_those(lambda limits: limits.any), of_those(lambda limits: bool(limits.gpu_models))
    spending = of_those(lambda limits: limits.month_micro is not None)
    if held["ids"]:
        for row in session.execute(_HELD, held):
            asked = Resources(row.gpus, row.cpu_milli, row.memory_bytes, row.allocations, row.tasks)
            use.add(_path(row), asked, model=None, cost_micro=0)
    if by_model["ids"]:
        for row in session.execute(_GPUS, by_model):
            for scope in _path(row).scopes:
                use.gpus[scope][row.model] += row.gpus
    if spending["ids"]:
        since = month_of(now)
        for row in session.execute(_SPENT, {**spending, "since": since, "since_ms": to_ms(since)}):
            for scope in _path(row).scopes:
                use.spent_micro[scope] += row.micro
    return use


def count(session: Session, path: Path, what: str) -> dict[Scope, int]:
    """How much of one of `COUNTED` there is, by the scopes of the path."""
    row = session.execute(_COUNTS[what], asdict(path)).one()
    return dict(zip(path.scopes, row, strict=True))


def month_of(moment: datetime) -> datetime:
    """When its month began, in UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(moment: datetime) -> datetime:
    return month_of(month_of(moment) + timedelta(days=31))


def _path(row: Any) -> Path:  # Any: a row with the columns of `_BY`
    return Path(row.customer_id, row.workspace_id, row.user_id)
