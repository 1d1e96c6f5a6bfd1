"""The customer's tasks, and what is published about them."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api.deps import DatabaseDep, PlannerDep, PrincipalDep, SettingsDep
from api.idempotency.once import OnceDep
from api.pagination import CursorQuery, LimitQuery, Page, decode_cursor, encode_cursor, page_rows
from api.principal import Caller, Principal
from api.problems import problems
from api.tasks import planning, repository, service
from api.tasks.schema import task_schema
from api.tasks.schemas import ElementOut, TaskDetail, TaskOut, TasksOut, TasksPlan, TasksSubmit
from api.tasks.submission import Submission, Wanted
from api.tasks.tables import Task
from api.tasks.views import detail, element_out, task_out
from api.tenants.tables import Workspace
from scheduler.states import TaskState

router = APIRouter(tags=["tasks"])

StateQuery = Annotated[TaskState | None, Query(description="Only those in this state")]
NameQuery = Annotated[str | None, Query(max_length=63, description="Only those of this name")]
WorkspaceQuery = Annotated[str | None, Query(max_length=63, description="Only those of this workspace")]


class SchemaResponse(JSONResponse):
    media_type = "application/schema+json"


@router.get("/schemas/task.json", response_class=SchemaResponse)
def show_task_schema() -> dict[str, Any]:  # Any: a JSON Schema
    """The JSON Schema of a task's document, for editors and other tools."""
    return task_schema()


@router.post("/customer/tasks", status_code=201, responses=problems(409))
def submit_tasks(body: TasksSubmit, database: DatabaseDep, principal: PrincipalDep, once: OnceDep) -> TasksOut:
    """Accept tasks, all or none; each starts by itself when what it asks for is free and its dependencies have ended.

    A dependency's name is one of this submission, else the newest task of that name in the workspace.
    409 `submission_exists`.
    """

    def submit(session: Session) -> TasksOut:
        tasks = service.submit(session, principal.caller, _submission(body))
        session.flush()
        return TasksOut(tasks=[task_out(loaded) for loaded in repository.load(session, tasks)])

    return database.transact(lambda session: once.run(session, TasksOut, partial(submit, session)))


@router.post("/customer/tasks/plan")
def plan_tasks(
    body: TasksSubmit, database: DatabaseDep, settings: SettingsDep, planner: PlannerDep, principal: PrincipalDep
) -> TasksPlan:
    """When and where each would start if nothing had to end before, and what it would cost at most: nothing is queued.

    The answer is of this moment and keeps nothing for you. 503 `controller_unavailable` while no controller leads.
    """
    return planning.plan(database, settings, planner, principal, _submission(body))


@router.get("/customer/tasks", responses=problems(400))
def list_tasks(
    database: DatabaseDep,
    principal: PrincipalDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    state: StateQuery = None,
    name: NameQuery = None,
    workspace: WorkspaceQuery = None,
) -> Page[TaskOut]:
    """Members see their own, owners their customer's; newest first."""
    query = repository.visible_to(principal)
    if state is not None:
        query = query.where(Task.state == state)
    if name is not None:
        query = query.where(Task.name == name)
    if workspace is not None:
        query = query.join(Workspace, Workspace.id == Task.workspace_id).where(Workspace.name == workspace)
    with database.session() as session:
        rows, following = page_rows(session, query, key=Task.id, cursor=cursor, limit=limit)
        loaded = repository.load(session, [row.Task for row in rows])
    return Page(items=[task_out(item) for item in loaded], next_cursor=following)


@router.get("/customer/tasks/{task_id}", responses=problems(404))
def get_task(task_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> TaskDetail:
    with database.session() as session:
        return detail(session, repository.find(session, repository.visible_to(principal), task_id))


@router.get("/customer/tasks/{task_id}/elements", responses=problems(400, 404))
def list_elements(
    task_id: UUID,
    database: DatabaseDep,
    principal: PrincipalDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    state: StateQuery = None,
) -> Page[ElementOut]:
    """Those elements of an array that have started, or were about to, by their indices."""
    after = -1 if cursor is None else decode_cursor(cursor)
    with database.session() as session:
        task = repository.find(session, repository.visible_to(principal), task_id)
        rows = repository.elements_of(session, task, state, after=after, most=limit + 1)
        items = [element_out(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=encode_cursor(items[-1].index) if len(rows) > limit else None)


@router.post("/customer/tasks/{task_id}/cancel", responses=problems(404, 409))
def cancel_task(task_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> TaskDetail:
    """Ask for its end: at once if nothing of it runs, else it has its grace. Asking again changes nothing.

    What depends on it is cancelled too, unless it only waits for it to have finished.
    """
    return database.transact(lambda session: _changed(session, principal, task_id, service.cancel))


@router.post("/customer/tasks/{task_id}/retry", status_code=201, responses=problems(404, 409))
def retry_task(task_id: UUID, database: DatabaseDep, principal: PrincipalDep, once: OnceDep) -> TaskDetail:
    """Submit a task that has ended once more: a new one with the same document. 409 `not_ended` while it has not."""

    def work(session: Session) -> TaskDetail:
        return once.run(session, TaskDetail, partial(_changed, session, principal, task_id, service.retry))

    return database.transact(work)


def _changed(
    session: Session, principal: Principal, uid: UUID, change: Callable[[Session, Caller, UUID], Task]
) -> TaskDetail:
    repository.find(session, repository.visible_to(principal), uid)
    task = change(session, principal.caller, uid)
    session.flush()
    return detail(session, task)


def _submission(body: TasksSubmit) -> Submission:
    tasks = [Wanted(each.task, working_dir=each.working_dir, submission_id=each.submission_id) for each in body.tasks]
    return Submission(tasks, workspace=body.workspace)
