"""Every customer's tasks, for administrators."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import DatabaseDep, PrincipalDep
from api.pagination import CursorQuery, LimitQuery, Page, page_rows
from api.principal import Caller
from api.problems import problems
from api.tasks import repository, service
from api.tasks.endpoints import StateQuery
from api.tasks.schemas import AdminTaskOut, TaskDetail
from api.tasks.tables import Task
from api.tasks.views import admin_out, detail
from api.tenants.tables import Customer

router = APIRouter(prefix="/admin/tasks", tags=["tasks"])

_TASKS = select(Task).where(Task.array_id.is_(None))


@router.get("", responses=problems(400))
def list_all_tasks(
    database: DatabaseDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    state: StateQuery = None,
    customer: Annotated[UUID | None, Query(description="Only this customer's")] = None,
) -> Page[AdminTaskOut]:
    """Newest first."""
    query = _TASKS
    if state is not None:
        query = query.where(Task.state == state)
    if customer is not None:
        query = query.join(Customer, Customer.id == Task.customer_id).where(Customer.uid == customer)
    with database.session() as session:
        rows, following = page_rows(session, query, key=Task.id, cursor=cursor, limit=limit)
        loaded = repository.load(session, [row.Task for row in rows])
    return Page(items=[admin_out(item) for item in loaded], next_cursor=following)


@router.post("/{task_id}/cancel", responses=problems(404, 409))
def cancel_any_task(task_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> TaskDetail:
    """Ask for its end, as its owner may. Asking again changes nothing."""

    def work(session: Session) -> TaskDetail:
        found = repository.find(session, _TASKS, task_id)
        caller = Caller(principal.user_id, found.customer_id, principal.actor, principal.address)
        task = service.cancel(session, caller, task_id, reason="It was cancelled by an administrator.")
        session.flush()
        return detail(session, task)

    return database.transact(work)
