"""Price versions, for administrators."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from api.audit.service import record
from api.billing.price_schemas import PriceIn, PriceOut
from api.billing.prices import PriceUnit, create_price
from api.billing.tables import PriceVersion
from api.capacity.tables import CapacityGroup
from api.deps import DatabaseDep, PrincipalDep
from api.errors import Unprocessable
from api.idempotency.once import OnceDep
from api.pagination import CursorQuery, LimitQuery, Page, page_of
from api.principal import Principal
from api.problems import problems
from api.tenants import customers
from api.tenants.tables import Customer

router = APIRouter(tags=["billing"])

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_CURRENCY = "USD"


@router.get("/admin/prices", responses=problems(400))
def list_prices(database: DatabaseDep, limit: LimitQuery = 50, cursor: CursorQuery = None) -> Page[PriceOut]:
    """Every price version, newest first."""
    query = select(PriceVersion, Customer).outerjoin(Customer, Customer.id == PriceVersion.customer_id)

    def view(row: Row[Any]) -> PriceOut:
        return _view(row.PriceVersion, row.Customer)

    return page_of(database, query, view, key=PriceVersion.__table__.c.id, cursor=cursor, limit=limit)


@router.post("/admin/prices", status_code=201, responses=problems(404, 409))
def add_price(body: PriceIn, database: DatabaseDep, principal: PrincipalDep, once: OnceDep) -> PriceOut:
    """Add a price version. It never changes; what was placed before it keeps the price that it has,
    for as long as that one's version says."""
    if body.effective_from is not None and not EARLIEST <= body.effective_from < LATEST:
        raise Unprocessable("`effective_from` must lie between the years 2000 and 9000.")
    return database.transact(lambda session: once.run(session, PriceOut, lambda: _add(session, principal, body)))


def _add(session: Session, principal: Principal, body: PriceIn) -> PriceOut:
    """
    Raises:
        NotFound: there is no such customer.
        Unprocessable: `unknown_capacity_group`, or `price_currency`: the customer pays in another one.
    """
    customer = _customer(session, body)
    currency = body.currency or (customer.currency if customer else _CURRENCY)
    if customer is not None and currency != customer.currency:
        raise Unprocessable(f"{customer.name} pays in {customer.currency}.", code="price_currency")
    price = create_price(
        session,
        unit=body.unit,
        gpu_model=body.gpu_model,
        price_micro=body.price_micro,
        currency=currency,
        effective_from=body.effective_from,
        customer_id=customer.id if customer else None,
        capacity_group=body.capacity_group,
        preemptible_discount_permille=body.preemptible_discount_permille,
        reserved_discount_permille=body.reserved_discount_permille,
        kept_for_s=body.kept_for_s,
    )
    record(
        session,
        actor=principal.actor,
        action="price.create",
        target=f"price:{price.uid}",
        customer_id=price.customer_id,
        address=principal.address,
        details=body.model_dump(mode="json"),
    )
    return _view(price, customer)


def _customer(session: Session, body: PriceIn) -> Customer | None:
    if body.customer is not None:
        return customers.find(session, body.customer)
    if body.capacity_group is None:
        return None
    owner = select(Customer).join(CapacityGroup, CapacityGroup.customer_id == Customer.id)
    found = session.scalar(owner.where(CapacityGroup.name == body.capacity_group))
    if found is None:
        raise Unprocessable(f"There is no capacity group {body.capacity_group!r}.", code="unknown_capacity_group")
    return found


def _view(price: PriceVersion, customer: Customer | None) -> PriceOut:
    return PriceOut(
        id=price.uid,
        unit=PriceUnit(price.unit),
        gpu_model=price.gpu_model,
        currency=price.currency,
        price_micro=price.price_micro,
        customer_id=customer.uid if customer else None,
        customer=customer.name if customer else None,
        capacity_group=price.capacity_group,
        preemptible_discount_permille=price.preemptible_discount_permille,
        reserved_discount_permille=price.reserved_discount_permille,
        kept_for_s=price.kept_for_s,
        effective_from=price.effective_from,
        created_at=price.created_at,
    )
