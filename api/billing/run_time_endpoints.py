"""How long the money lasts for what runs, and the warnings of its end."""

from uuid import UUID

from fastapi import APIRouter

from api.billing import run_time_service as service
from api.billing.movement_service import find_customer
from api.billing.schemas import RunTimeOut, ThresholdsIn, WarningOut
from api.deps import DatabaseDep, PrincipalDep, SettingsDep
from api.pagination import CursorQuery, LimitQuery, Page
from api.problems import problems

router = APIRouter(tags=["billing"])


@router.get("/customer/billing/run-time")
def own_run_time(database: DatabaseDep, settings: SettingsDep, principal: PrincipalDep) -> RunTimeOut:
    """How long your money lasts for all that runs, and the warnings that stand."""
    return database.transact(
        lambda session: service.run_time(session, principal.tenant_id, grace_s=settings.stop_grace_s)
    )


@router.get("/admin/customers/{customer_id}/run-time", responses=problems(404))
def run_time(customer_id: UUID, database: DatabaseDep, settings: SettingsDep) -> RunTimeOut:
    """How long a customer's money lasts for all that runs."""
    return database.transact(
        lambda session: service.run_time(session, find_customer(session, customer_id), grace_s=settings.stop_grace_s)
    )


@router.put("/customer/billing/warn-before")
def change_thresholds(
    body: ThresholdsIn, database: DatabaseDep, settings: SettingsDep, principal: PrincipalDep
) -> RunTimeOut:
    """Say at which run times left you want to be warned too. They replace those before."""
    return database.transact(
        lambda session: service.change_thresholds(session, principal, body, grace_s=settings.stop_grace_s)
    )


@router.get("/customer/billing/warnings", responses=problems(400))
def own_warnings(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[WarningOut]:
    """Every warning that you had, newest first."""
    return database.transact(
        lambda session: service.warning_page(session, principal.tenant_id, cursor=cursor, limit=limit)
    )
