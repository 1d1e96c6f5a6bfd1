"""Quotas over HTTP: administrators set them and the plans, customers see theirs."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from api.deps import DatabaseDep, PrincipalDep
from api.pagination import CursorQuery, LimitQuery, Page, page_of
from api.problems import problems
from api.quotas import administration
from api.quotas.effective import effective
from api.quotas.limits import Path as QuotaPath
from api.quotas.schemas import CustomerPlan, CustomerQuota, PlanName, PlanOut, QuotaIn, QuotaOut
from api.quotas.tables import Plan
from api.tenants import workspaces
from api.tenants.schemas import WorkspaceName

router = APIRouter(tags=["quotas"])

WorkspacePath = Annotated[WorkspaceName, Path(description="The workspace's name")]
PlanPath = Annotated[PlanName, Path(description="The plan's name")]


@router.get("/admin/customers/{customer_id}/quota", responses=problems(404))
def show_quota(customer_id: UUID, database: DatabaseDep) -> QuotaOut:
    """A customer's own limits, and the ones that apply, with what is used."""

    def work(session: Session) -> QuotaOut:
        return administration.show(session, administration.of_customer(session, customer_id))

    return database.transact(work)


@router.put("/admin/customers/{customer_id}/quota", responses=problems(404))
def set_quota(customer_id: UUID, body: QuotaIn, database: DatabaseDep, principal: PrincipalDep) -> QuotaOut:
    """Replace a customer's limits. What runs already stays, also above a lower limit."""

    def work(session: Session) -> QuotaOut:
        owner = administration.of_customer(session, customer_id)
        return administration.replace(session, principal, owner, body)

    return database.transact(work)


@router.get("/admin/customers/{customer_id}/workspaces/{workspace}/quota", responses=problems(404))
def show_workspace_quota(customer_id: UUID, workspace: WorkspacePath, database: DatabaseDep) -> QuotaOut:
    """A workspace's own limits, and the ones that apply in it."""

    def work(session: Session) -> QuotaOut:
        return administration.show(session, administration.of_workspace(session, customer_id, workspace))

    return database.transact(work)


@router.put("/admin/customers/{customer_id}/workspaces/{workspace}/quota", responses=problems(404))
def set_workspace_quota(
    customer_id: UUID, workspace: WorkspacePath, body: QuotaIn, database: DatabaseDep, principal: PrincipalDep
) -> QuotaOut:
    """Replace a workspace's limits, which apply beside its customer's."""

    def work(session: Session) -> QuotaOut:
        owner = administration.of_workspace(session, customer_id, workspace)
        return administration.replace(session, principal, owner, body)

    return database.transact(work)


@router.get("/admin/users/{user_id}/quota", responses=problems(404))
def show_user_quota(user_id: UUID, database: DatabaseDep) -> QuotaOut:
    """A user's own limits, and the ones that apply to them."""

    def work(session: Session) -> QuotaOut:
        return administration.show(session, administration.of_user(session, user_id))

    return database.transact(work)


@router.put("/admin/users/{user_id}/quota", responses=problems(404))
def set_user_quota(user_id: UUID, body: QuotaIn, database: DatabaseDep, principal: PrincipalDep) -> QuotaOut:
    """Replace a user's limits, which apply beside their customer's."""

    def work(session: Session) -> QuotaOut:
        return administration.replace(session, principal, administration.of_user(session, user_id), body)

    return database.transact(work)


@router.put("/admin/customers/{customer_id}/plan", responses=problems(404))
def set_customer_plan(
    customer_id: UUID, body: CustomerPlan, database: DatabaseDep, principal: PrincipalDep
) -> QuotaOut:
    """Give a customer a plan, whose limits apply where the customer has none of its own."""

    def work(session: Session) -> QuotaOut:
        owner = administration.of_customer(session, customer_id)
        return administration.set_plan(session, principal, owner, body.plan)

    return database.transact(work)


@router.get("/admin/plans", responses=problems(400))
def list_plans(database: DatabaseDep, limit: LimitQuery = 50, cursor: CursorQuery = None) -> Page[PlanOut]:
    """All plans, newest first."""
    return page_of(
        database,
        administration.plans(),
        lambda row: administration.plan_view(row.Plan, row.customers),
        key=Plan.__table__.c.id,
        cursor=cursor,
        limit=limit,
    )


@router.put("/admin/plans/{plan}")
def put_plan(plan: PlanPath, body: QuotaIn, database: DatabaseDep, principal: PrincipalDep) -> PlanOut:
    """Make a plan, or replace its limits, for all customers that have it."""
    return database.transact(lambda session: administration.put_plan(session, principal, plan, body))


@router.delete("/admin/plans/{plan}", status_code=204, responses=problems(404, 409))
def remove_plan(plan: PlanPath, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Only one that no customer has."""
    database.transact(lambda session: administration.remove_plan(session, principal, plan))


@router.get("/customer/quota")
def show_own_quota(
    database: DatabaseDep,
    principal: PrincipalDep,
    workspace: Annotated[WorkspaceName | None, Query(description="Default: the default one")] = None,
) -> CustomerQuota:
    """What applies to you in a workspace: the tightest limits on the path, with what is used."""

    def work(session: Session) -> CustomerQuota:
        customer_id = principal.tenant_id
        workspace_id = workspaces.find_id(session, customer_id=customer_id, name=workspace)
        path = QuotaPath(customer_id, workspace_id, principal.user_id)
        return CustomerQuota(plan=administration.plan_of(session, customer_id), effective=effective(session, path))

    return database.transact(work)
