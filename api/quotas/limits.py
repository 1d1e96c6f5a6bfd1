"""The limits that apply: of a customer its own, its plan's where it has none, the platform's where neither has any; and
beside them those of a workspace and of a user.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.pipeline import Answer, Pipeline, pipelined
from api.quotas.tables import LIMITS
from scheduler.quota import DEFAULT_QUEUED, Level, Limits, Scope

DEFAULTS_KEY = "default_quota"
"""The platform setting with the defaults: an object with fields of `Limits`, each may be missing or null."""
_COLUMNS = ", ".join([*LIMITS, "gpu_models"])
_DEFAULTS = text("select value from settings where key = :key")


def _rows(customers: str, below: str = "true") -> str:
    """Limits of `customers` (a condition on an id) that their plans have, and that they have themselves."""
    return (
        "select c.id as customer_id, null::bigint as workspace_id, null::bigint as user_id, true as of_plan,"
        f" {_COLUMNS} from customers c join plans p on p.id = c.plan_id where c.id {customers} union all"
        f" select customer_id, workspace_id, user_id, false, {_COLUMNS} from quotas where customer_id {customers}"
        f" and {below}"
    )


_OWN = text(_rows("= any(:ids)"))
_OWNERS = text(_rows("in (select customer_id from allocations where id = any(:ids))"))
_ON_PATH = text(
    _rows(
        "= :customer_id",
        "coalesce(workspace_id, :workspace_id) = :workspace_id and coalesce(user_id, :user_id) = :user_id",
    )
)


@dataclass(frozen=True, slots=True)
class Path:
    """For whom something counts."""

    customer_id: int
    workspace_id: int
    user_id: int

    @property
    def scopes(self) -> tuple[Scope, Scope, Scope]:
        customer, workspace = Scope(Level.CUSTOMER, self.customer_id), Scope(Level.WORKSPACE, self.workspace_id)
        return customer, workspace, Scope(Level.USER, self.user_id)


@dataclass(frozen=True, slots=True)
class CustomerLimits:
    """A customer's limits, and those of its workspaces and users that have some, by their ids."""

    own: Limits
    workspaces: Mapping[int, Limits] = field(default_factory=dict)
    users: Mapping[int, Limits] = field(default_factory=dict)

    def on(self, path: Path) -> list[tuple[Scope, Limits]]:
        """Those that apply on a path, the customer's first."""
        customer, workspace, user = path.scopes
        below = (workspace, self.workspaces.get(path.workspace_id)), (user, self.users.get(path.user_id))
        return [(customer, self.own), *((scope, limits) for scope, limits in below if limits is not None)]

    def all(self) -> Iterable[Limits]:
        yield self.own
        yield from self.workspaces.values()
        yield from self.users.values()


@dataclass(frozen=True, slots=True)
class AskedLimits:
    """Limits that were asked for in a pipeline, and are told once."""

    defaults: Answer
    own: Answer

    def of(self, customer_ids: Collection[int]) -> Mapping[int, CustomerLimits]:
        """Of those whom it was asked for."""
        default = next((stored_limits(row.value) for row in self.defaults.all()), Limits())
        rows: dict[int, list[Any]] = {customer_id: [] for customer_id in customer_ids}
        for row in self.own.all():
            rows[row.customer_id].append(row)
        return {customer_id: _of_rows(found, default) for customer_id, found in rows.items()}


def ask_limits(pipeline: Pipeline, customer_ids: Collection[int]) -> AskedLimits:
    return AskedLimits(pipeline.ask(_DEFAULTS, {"key": DEFAULTS_KEY}), pipeline.ask(_OWN, {"ids": list(customer_ids)}))


def ask_limits_of_owners(pipeline: Pipeline, allocation_ids: Sequence[int]) -> AskedLimits:
    """Of the customers whose allocations these are."""
    defaults = pipeline.ask(_DEFAULTS, {"key": DEFAULTS_KEY})
    return AskedLimits(defaults, pipeline.ask(_OWNERS, {"ids": allocation_ids}))


def limits_of(session: Session, customer_id: int) -> CustomerLimits:
    with pipelined(session) as pipeline:
        return ask_limits(pipeline, [customer_id]).of([customer_id])[customer_id]


def limits_on(session: Session, path: Path) -> list[tuple[Scope, Limits]]:
    """Those that apply on a path, the customer's first."""
    with pipelined(session) as pipeline:
        defaults = pipeline.ask(_DEFAULTS, {"key": DEFAULTS_KEY})
        own = pipeline.ask(
            _ON_PATH,
            {"customer_id": path.customer_id, "workspace_id": path.workspace_id, "user_id": path.user_id},
        )
        return AskedLimits(defaults, own).of([path.customer_id])[path.customer_id].on(path)


def stored_limits(stored: object) -> Limits:
    """Of the platform setting with the defaults."""
    stored = stored if isinstance(stored, dict) else {}
    numbers: dict[str, Any] = {name: value for name in LIMITS if isinstance(value := stored.get(name), int)}
    return Limits(**numbers, gpu_models=stored.get("gpu_models") or {})


def _of_rows(rows: Sequence[Any], default: Limits) -> CustomerLimits:  # Any: named tuples of `_rows`
    plan = next((_of_row(row) for row in rows if row.of_plan), Limits())
    own, workspaces, users = Limits(), dict[int, Limits](), dict[int, Limits]()
    for row in rows:
        if row.workspace_id is not None:
            workspaces[row.workspace_id] = _of_row(row)
        elif row.user_id is not None:
            users[row.user_id] = _of_row(row)
        elif not row.of_plan:
            own = _of_row(row)
    behind = _first_of(plan, _first_of(default, Limits(queued=DEFAULT_QUEUED)))
    return CustomerLimits(_first_of(own, behind), workspaces, users)


def _of_row(row: Any) -> Limits:  # Any: as above
    return Limits(**{name: getattr(row, name) for name in LIMITS}, gpu_models=row.gpu_models)


def _first_of(limits: Limits, behind: Limits) -> Limits:
    """Each limit, or where there is none the one behind it."""
    numbers: dict[str, Any] = {
        name: getattr(behind, name) if (value := getattr(limits, name)) is None else value for name in LIMITS
    }
    return Limits(**numbers, gpu_models={**behind.gpu_models, **limits.gpu_models})
