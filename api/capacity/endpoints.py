"""Capacity groups over HTTP: administrators keep them, customers see theirs."""

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy import Select
from sqlalchemy.orm import Session

from api.allocations.request import Word
from api.capacity import repository, service
from api.capacity.schemas import CapacityGroupChange, CapacityGroupCreate, CapacityGroupOut
from api.capacity.tables import CapacityGroup
from api.db import Database
from api.deps import DatabaseDep, PrincipalDep
from api.idempotency.once import OnceDep
from api.pagination import CursorQuery, LimitQuery, Page, page_rows
from api.problems import problems

router = APIRouter(tags=["capacity groups"])


@router.get("/admin/capacity-groups", responses=problems(400))
def list_all_groups(
    database: DatabaseDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    name: Annotated[Word | None, Query(description="Exactly this one")] = None,
    cohort: Annotated[Word | None, Query(description="Only those of this cohort")] = None,
) -> Page[CapacityGroupOut]:
    """All customers' groups with what is held in each, newest first."""
    query = repository.all_groups()
    if name is not None:
        query = query.where(CapacityGroup.name == name)
    if cohort is not None:
        query = query.where(CapacityGroup.cohort == cohort)
    return _page(database, query, cursor=cursor, limit=limit)


@router.post("/admin/capacity-groups", status_code=201, responses=problems(404, 409))
def create_group(
    body: CapacityGroupCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> CapacityGroupOut:
    """Guarantee a customer a share of the GPUs."""
    return database.transact(
        lambda session: once.run(session, CapacityGroupOut, partial(service.create, session, principal, body))
    )


@router.get("/admin/capacity-groups/{group_id}", responses=problems(404))
def get_group(group_id: UUID, database: DatabaseDep) -> CapacityGroupOut:
    with database.session() as session:
        return service.views(session, [service.find(session, group_id)])[0]


@router.patch("/admin/capacity-groups/{group_id}", responses=problems(404, 409))
def change_group(
    group_id: UUID, body: CapacityGroupChange, database: DatabaseDep, principal: PrincipalDep
) -> CapacityGroupOut:
    """Change what is named. What runs stays, also above a lower figure."""
    return database.transact(lambda session: service.change(session, principal, group_id, body))


@router.delete("/admin/capacity-groups/{group_id}", status_code=204, responses=problems(404, 409))
def remove_group(group_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Only one in which nothing waits or runs."""
    database.transact(partial(service.remove, principal=principal, uid=group_id))


@router.get("/customer/capacity-groups", responses=problems(400))
def list_groups(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[CapacityGroupOut]:
    """The groups that your customer's requests may be charged to, newest first."""
    return _page(database, repository.of_customer(principal.tenant_id), cursor=cursor, limit=limit)


def _page(
    database: Database, query: Select[*tuple[Any, ...]], *, cursor: str | None, limit: int
) -> Page[CapacityGroupOut]:
    def work(session: Session) -> Page[CapacityGroupOut]:
        rows, following = page_rows(session, query, key=CapacityGroup.id, cursor=cursor, limit=limit)
        items = service.views(session, [(row.CapacityGroup, row.Customer) for row in rows])
        return Page(items=items, next_cursor=following)

    return database.transact(work)
