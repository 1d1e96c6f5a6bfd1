"""`/admin/customers` and `/admin/settings`."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy import select

from api.deps import DatabaseDep, PrincipalDep
from api.idempotency.once import OnceDep
from api.identity.users import FirstPassword
from api.pagination import CursorQuery, LimitQuery, Page, page_of
from api.problems import problems
from api.tenants import customers, platform_settings
from api.tenants.schemas import (
    CustomerChange,
    CustomerCreate,
    CustomerCreated,
    CustomerView,
    PlatformSettings,
    PlatformSettingsChange,
)
from api.tenants.tables import Customer
from api.text import ShortText

router = APIRouter(prefix="/admin", tags=["admin"])


@router.get("/customers", responses=problems(400))
def list_customers(
    database: DatabaseDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    name: Annotated[ShortText | None, Query(description="Exactly this one")] = None,
    disabled: bool | None = None,
) -> Page[CustomerView]:
    """All customers, newest first."""
    query = select(Customer)
    if name is not None:
        query = query.where(Customer.name == name)
    if disabled is not None:
        query = query.where(Customer.disabled_at.is_not(None) if disabled else Customer.disabled_at.is_(None))
    return page_of(
        database, query, lambda row: customers.view(row.Customer), key=Customer.id, cursor=cursor, limit=limit
    )


@router.post("/customers", status_code=201, responses=problems(409))
def create_customer(
    body: CustomerCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> CustomerCreated:
    """A customer with its owner and default workspace. A generated first password is in this reply only."""
    password = FirstPassword.of(body.owner.password)
    return database.transact(
        lambda session: once.run(session, CustomerCreated, lambda: customers.create(session, principal, body, password))
    )


@router.get("/customers/{customer_id}", responses=problems(404))
def read_customer(customer_id: UUID, database: DatabaseDep) -> CustomerView:
    """One customer."""
    return database.transact(lambda session: customers.view(customers.find(session, customer_id)))


@router.patch("/customers/{customer_id}", responses=problems(404, 409))
def change_customer(
    customer_id: UUID, body: CustomerChange, database: DatabaseDep, principal: PrincipalDep
) -> CustomerView:
    """Give a customer another name, weight or priority ceiling: what is named changes."""
    return database.transact(lambda session: customers.change(session, principal, customer_id, body))


@router.post("/customers/{customer_id}/disable", responses=problems(404))
def disable_customer(customer_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> CustomerView:
    """Refuse the customer's people and keys at once, and stop in order what runs."""
    return database.transact(lambda session: customers.disable(session, principal, customer_id))


@router.post("/customers/{customer_id}/enable", responses=problems(404))
def enable_customer(customer_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> CustomerView:
    """Let the customer's people in again."""
    return database.transact(lambda session: customers.enable(session, principal, customer_id))


@router.get("/settings")
def read_settings(database: DatabaseDep) -> PlatformSettings:
    """The settings that can be changed while the platform runs."""
    return database.transact(platform_settings.read)


@router.patch("/settings")
def change_settings(body: PlatformSettingsChange, database: DatabaseDep, principal: PrincipalDep) -> PlatformSettings:
    """Change what is named."""
    return database.transact(lambda session: platform_settings.change(session, principal, body))
