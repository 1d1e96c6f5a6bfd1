"""A customer's quota, for administrators."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.audit.service import record
from api.deps import DatabaseDep, PrincipalDep
from api.errors import NotFound
from api.principal import Principal
from api.problems import problems
from api.quotas.service import effective_limits
from api.quotas.tables import Quota
from api.tenants.tables import Customer

router = APIRouter(tags=["quotas"])

Limit32 = Annotated[int | None, Field(ge=0, le=10**9, description="null: the platform's default")]
Limit64 = Annotated[int | None, Field(ge=0, le=10**18, description="null: the platform's default")]


class QuotaIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    gpus: Limit32 = None
    cpu_milli: Limit64 = None
    memory_bytes: Limit64 = None
    allocations: Limit32 = None
    queued: Limit32 = None


class EffectiveLimits(BaseModel):
    """What applies, defaults included; null is no limit."""

    gpus: int | None
    cpu_milli: int | None
    memory_bytes: int | None
    allocations: int | None
    queued: int


class QuotaOut(BaseModel):
    gpus: int | None
    cpu_milli: int | None
    memory_bytes: int | None
    allocations: int | None
    queued: int | None
    effective: EffectiveLimits


@router.get("/admin/customers/{customer_id}/quota", responses=problems(404))
def show_quota(customer_id: UUID, database: DatabaseDep) -> QuotaOut:
    """A customer's own limits, and the ones that apply."""
    return database.transact(lambda session: _view(session, _customer(session, customer_id)))


@router.put("/admin/customers/{customer_id}/quota", responses=problems(404))
def set_quota(customer_id: UUID, body: QuotaIn, database: DatabaseDep, principal: PrincipalDep) -> QuotaOut:
    """Replace a customer's limits. What runs already stays, also above a lower limit."""
    return database.transact(lambda session: _set(session, principal, customer_id, body))


def _set(session: Session, principal: Principal, customer_uid: UUID, body: QuotaIn) -> QuotaOut:
    customer_id = _customer(session, customer_uid, lock=True)
    values = body.model_dump()
    session.execute(
        insert(Quota)
        .values(customer_id=customer_id, **values)
        .on_conflict_do_update(index_elements=[Quota.customer_id], set_=values)
    )
    record(
        session,
        actor=principal.actor,
        action="customer.quota",
        target=f"customer:{customer_uid}",
        customer_id=customer_id,
        address=principal.address,
        details=values,
    )
    return _view(session, customer_id)


def _customer(session: Session, customer_uid: UUID, *, lock: bool = False) -> int:
    query = select(Customer.id).where(Customer.uid == customer_uid)
    found = session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound("There is no such customer.")
    return found


def _view(session: Session, customer_id: int) -> QuotaOut:
    own, limits = session.get(Quota, customer_id), effective_limits(session, customer_id)
    effective = EffectiveLimits(
        gpus=limits.gpus,
        cpu_milli=limits.cpu_milli,
        memory_bytes=limits.memory_bytes,
        allocations=limits.allocations,
        queued=limits.queued,
    )
    return QuotaOut(
        gpus=own.gpus if own else None,
        cpu_milli=own.cpu_milli if own else None,
        memory_bytes=own.memory_bytes if own else None,
        allocations=own.allocations if own else None,
        queued=own.queued if own else None,
        effective=effective,
    )
