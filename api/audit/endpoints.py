"""`/admin/audit`: the trail of changes."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel
from sqlalchemy import select

from api.audit.tables import AuditEntry
from api.deps import DatabaseDep
from api.pagination import CursorQuery, LimitQuery, Page, page_of
from api.problems import problems
from api.tenants.tables import Customer
from api.text import ShortText

router = APIRouter(prefix="/admin/audit", tags=["admin"])


class AuditView(BaseModel):
    id: UUID
    at: datetime
    actor: str
    action: str
    target: str
    customer_id: UUID | None
    address: str | None
    details: dict[str, Any]


@router.get("", responses=problems(400))
def list_entries(
    database: DatabaseDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    actor: Annotated[ShortText | None, Query(description="Exactly, as in `user:<id>`")] = None,
    action: Annotated[ShortText | None, Query(description="Exactly, as in `customer.disable`")] = None,
    target: Annotated[ShortText | None, Query(description="Exactly, as in `user:<id>`")] = None,
    customer_id: UUID | None = None,
    since: Annotated[AwareDatetime | None, Query(description="From this moment on")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this moment")] = None,
) -> Page[AuditView]:
    """Who changed what, newest first."""
    query = select(AuditEntry, Customer.uid).outerjoin(Customer, Customer.id == AuditEntry.customer_id)
    for column, wanted in ((AuditEntry.actor, actor), (AuditEntry.action, action), (AuditEntry.target, target)):
        if wanted is not None:
            query = query.where(column == wanted)
    if customer_id is not None:
        query = query.where(Customer.uid == customer_id)
    if since is not None:
        query = query.where(AuditEntry.at >= since)
    if until is not None:
        query = query.where(AuditEntry.at < until)
    return page_of(
        database, query, lambda row: _view(row.AuditEntry, row.uid), key=AuditEntry.id, cursor=cursor, limit=limit
    )


def _view(entry: AuditEntry, customer_uid: UUID | None) -> AuditView:
    return AuditView(
        id=entry.uid, at=entry.at, actor=entry.actor, action=entry.action, target=entry.target,
        customer_id=customer_uid, address=entry.address, details=entry.details,
    )  # fmt: skip
