"""Setting and showing limits: of customers, their workspaces and users, and of plans."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.allocations.transitions import notify
from api.audit.service import record
from api.errors import Conflict, NotFound
from api.identity.tables import User
from api.principal import Principal
from api.quotas.effective import effective
from api.quotas.limits import Path
from api.quotas.schemas import PlanOut, QuotaIn, QuotaOut
from api.quotas.tables import Plan, Quota
from api.tenants.tables import Customer, Workspace


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose limits: a customer's, or with one of them a workspace's or a user's. `name` is as audit rows have it."""

    customer_id: int
    name: str
    workspace_id: int | None = None
    user_id: int | None = None

    @property
    def path(self) -> Path:
        return Path(self.customer_id, self.workspace_id or 0, self.user_id or 0)


def of_customer(session: Session, uid: UUID) -> Owner:
    """Raises NotFound."""
    customer_id = session.scalar(select(Customer.id).where(Customer.uid == uid))
    if customer_id is None:
        raise NotFound("There is no such customer.")
    return Owner(customer_id, f"customer:{uid}")


def of_workspace(session: Session, customer_uid: UUID, name: str) -> Owner:
    """Raises NotFound."""
    customer = of_customer(session, customer_uid)
    query = select(Workspace).where(Workspace.customer_id == customer.customer_id, Workspace.name == name)
    workspace = session.scalar(query)
    if workspace is None:
        raise NotFound("The customer has no such workspace.")
    return Owner(customer.customer_id, f"workspace:{workspace.uid}", workspace_id=workspace.id)


def of_user(session: Session, uid: UUID) -> Owner:
    """Raises NotFound."""
    user = session.scalar(select(User).where(User.uid == uid, User.customer_id.is_not(None)))
    if user is None or user.customer_id is None:
        raise NotFound("No customer has such a user.")
    return Owner(user.customer_id, f"user:{uid}", user_id=user.id)


def show(session: Session, owner: Owner) -> QuotaOut:
    own = session.scalar(_rows(owner))
    kept = {} if own is None else _values(own)
    return QuotaOut(**kept, plan=plan_of(session, owner.customer_id), effective=effective(session, owner.path))


def replace(session: Session, principal: Principal, owner: Owner, wanted: QuotaIn) -> QuotaOut:
    """Set all of somebody's limits. What runs stays, also above a lower one."""
    _lock(session, owner.customer_id)
    values = wanted.model_dump()
    if wanted == QuotaIn():
        session.execute(delete(Quota).where(Quota.id.in_(_rows(owner).with_only_columns(Quota.id))))
    else:
        row = insert(Quota).values(
            customer_id=owner.customer_id, workspace_id=owner.workspace_id, user_id=owner.user_id, **values
        )
        keys = [Quota.customer_id, Quota.workspace_id, Quota.user_id]
        session.execute(row.on_conflict_do_update(index_elements=keys, set_=values))
    level = owner.name.partition(":")[0]
    _audit(session, principal, f"{level}.quota", owner.name, values, customer_id=owner.customer_id)
    notify(session)
    return show(session, owner)


def set_plan(session: Session, principal: Principal, owner: Owner, name: str | None) -> QuotaOut:
    """Give a customer a plan, or take it away. Raises NotFound for the plan."""
    _lock(session, owner.customer_id)
    customer = session.get_one(Customer, owner.customer_id)
    customer.plan_id = None if name is None else _plan(session, name).id
    session.flush()
    _audit(session, principal, "customer.plan", owner.name, {"plan": name}, customer_id=owner.customer_id)
    notify(session)
    return show(session, owner)


def plan_of(session: Session, customer_id: int) -> str | None:
    return session.scalar(
        select(Plan.name).join(Customer, Customer.plan_id == Plan.id).where(Customer.id == customer_id)
    )


def plans() -> Select[tuple[Plan, int]]:
    """Each with how many customers have it."""
    having = select(func.count()).where(Customer.plan_id == Plan.id).scalar_subquery()
    return select(Plan, having.label("customers"))


def put_plan(session: Session, principal: Principal, name: str, wanted: QuotaIn) -> PlanOut:
    """Make a plan, or replace its limits, for all who have it."""
    values = wanted.model_dump()
    row = insert(Plan).values(name=name, **values)
    session.execute(row.on_conflict_do_update(index_elements=[Plan.name], set_=values))
    _audit(session, principal, "plan.set", f"plan:{name}", values)
    notify(session)
    found = session.execute(plans().where(Plan.name == name)).one()
    return plan_view(found.Plan, found.customers)


def remove_plan(session: Session, principal: Principal, name: str) -> None:
    """
    Raises:
        NotFound
        Conflict: `plan_in_use`.
    """
    plan = _plan(session, name, to_remove=True)
    if session.scalar(select(Customer.id).where(Customer.plan_id == plan.id).limit(1)) is not None:
        raise Conflict("Customers have this plan: give them another first.", code="plan_in_use")
    session.delete(plan)
    _audit(session, principal, "plan.delete", f"plan:{name}", {})


def plan_view(plan: Plan, customers: int) -> PlanOut:
    return PlanOut(**_values(plan), name=plan.name, customers=customers, created_at=plan.created_at)


def _plan(session: Session, name: str, *, to_remove: bool = False) -> Plan:
    """Locked: whoever gives it to a customer, and who removes it, see what the other did."""
    query = select(Plan).where(Plan.name == name)
    plan = session.scalar(query.with_for_update(read=not to_remove, key_share=not to_remove))
    if plan is None:
        raise NotFound("There is no such plan.")
    return plan


def _rows(owner: Owner) -> Select[Quota]:
    return select(Quota).where(
        Quota.customer_id == owner.customer_id,
        Quota.workspace_id.is_not_distinct_from(owner.workspace_id),
        Quota.user_id.is_not_distinct_from(owner.user_id),
    )


def _values(row: Quota | Plan) -> dict[str, Any]:  # Any: numbers, and one object
    return {name: getattr(row, name) for name in QuotaIn.model_fields}


def _lock(session: Session, customer_id: int) -> None:
    """Who submits or places for the customer sees the limits before or after, and never some of both."""
    session.execute(select(Customer.id).where(Customer.id == customer_id).with_for_update())


def _audit(
    session: Session,
    principal: Principal,
    action: str,
    target: str,
    details: dict[str, Any],  # Any: JSON
    *,
    customer_id: int | None = None,
) -> None:
    record(
        session,
        actor=principal.actor,
        action=action,
        target=target,
        customer_id=customer_id,
        address=principal.address,
        details=details,
    )
