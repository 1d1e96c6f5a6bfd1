"""Accepting the tasks of a submission, parents first: what each names is looked up, and what can start is queued."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from api.audit import service as audit
from api.errors import Unprocessable
from api.ids import new_uid
from api.principal import Caller
from api.quotas.limits import Path
from api.quotas.service import check_array
from api.tasks import arrays, checks, graph
from api.tasks.checks import Parent
from api.tasks.queueing import Queue
from api.tasks.spec import TaskSpec
from api.tasks.submission import Wanted
from api.tasks.tables import Task, TaskDependency, TaskEvent
from scheduler.states import TASK, TaskState

MAX_TASKS = 100  # of one submission
ARCHIVES = "archives"  # the key of `Task.more` for `Wanted.archives`


def accept(session: Session, caller: Caller, workspace_id: int, tasks: Sequence[Wanted]) -> list[Task]:
    """All of them, in their order, or none. The caller has locked the customer's row.

    Raises:
        api.errors.ApiError: as `service.submit`.
    """
    depends = depends_of(tasks)
    by_name = {wanted.spec.name: wanted for wanted in tasks}
    checks.check_submission_ids(session, caller.customer_id, [wanted.submission_id for wanted in tasks])
    accepting = _Accepting(
        session,
        caller,
        workspace_id,
        Queue(session, caller.customer_id),
        checks.find_parents(session, workspace_id, outside(depends)),
    )
    made = {name: accepting.accept(by_name[name]) for name in graph.in_order(depends)}
    checks.check_blocked(session, Path(caller.customer_id, workspace_id, caller.user_id), made.values())
    return [made[wanted.spec.name] for wanted in tasks]


def depends_of(tasks: Sequence[Wanted]) -> dict[str, list[str]]:
    """What each task of a submission depends on, by names.

    Raises:
        Unprocessable: `bad_request`, `name_twice`, `dependency_cycle`.
    """
    if not 1 <= len(tasks) <= MAX_TASKS:
        raise Unprocessable(f"A submission has from 1 to {MAX_TASKS} tasks.", code="bad_request")
    depends = {wanted.spec.name: [each.task for each in wanted.spec.depends_on] for wanted in tasks}
    if len(depends) < len(tasks):
        raise Unprocessable("Two tasks of one submission can't have the same name.", code="name_twice")
    cycle = graph.find_cycle(depends)
    if cycle is not None:
        raise Unprocessable(
            f"They wait for each other in a circle: {' -> '.join([*cycle, cycle[0]])}.", code="dependency_cycle"
        )
    return depends


def outside(depends: Mapping[str, Sequence[str]]) -> set[str]:
    """The names that are none of the submission's own."""
    return {name for names in depends.values() for name in names} - depends.keys()


def record(session: Session, caller: Caller, task: Task, action: str, **details: str) -> None:
    """The audit row of what somebody did with a task."""
    audit.record(
        session,
        actor=caller.actor,
        action=f"task.{action}",
        target=f"task:{task.uid}",
        customer_id=task.customer_id,
        address=caller.address,
        details={"name": task.name, **details},
    )


@dataclass(slots=True)
class _Accepting:
    """One submission. `known` are those that others may depend on, by name: ids rise along what depends on what."""

    session: Session
    caller: Caller
    workspace_id: int
    queue: Queue
    known: dict[str, Parent]

    def accept(self, wanted: Wanted) -> Task:
        session, spec = self.session, wanted.spec
        parents = checks.parents_of(spec, self.known)
        task = self._task(wanted)
        if any(TASK[parent.state] for parent in parents):
            task.state = TaskState.BLOCKED
            self.queue.check(task, spec)
        elif spec.array is None:
            task.allocation_id = self.queue.add(task, spec, actor=self.caller.actor).id
        session.add(task)
        session.flush()
        if spec.array is not None:
            self._make_array(task, spec)
        for parent, depends in zip(parents, spec.depends_on, strict=True):
            session.add(TaskDependency(task_id=task.id, parent_id=parent.id, condition=depends.condition))
        session.add(TaskEvent(task_id=task.id, actor=self.caller.actor, to_state=task.state, reason="submitted"))
        record(session, self.caller, task, "submit")
        self.known[task.name] = Parent(task.id, TaskState(task.state))
        return task

    def _make_array(self, task: Task, spec: TaskSpec) -> None:
        """With its first worker, which a full queue refuses; the others come with the controller's next look."""
        path = Path(task.customer_id, task.workspace_id, task.user_id)
        check_array(self.session, path, elements=len(spec.elements or ()))
        arrays.make(self.session, task, spec)
        if task.state == TaskState.QUEUED:
            worker = arrays.new_worker(self.session, task, actor=self.caller.actor)
            worker.allocation_id = self.queue.add(worker, spec, actor=self.caller.actor).id
            worker.due_at = None

    def _task(self, wanted: Wanted) -> Task:
        customer_id = self.caller.customer_id
        image = checks.check_document(self.session, customer_id, self.workspace_id, wanted)
        return Task(
            uid=new_uid(),
            customer_id=customer_id,
            workspace_id=self.workspace_id,
            user_id=self.caller.user_id,
            name=wanted.spec.name,
            submission_id=wanted.submission_id,
            spec=wanted.spec.model_dump(mode="json", exclude_unset=True),
            image_id=image.id,
            working_dir=wanted.working_dir,
            more=_more(wanted),
            state=TaskState.QUEUED,
            attempts=0,
            retries=0,
        )


def _more(wanted: Wanted) -> dict[str, Any]:  # Any: JSON
    archives = [{"digest": each.digest, "target": each.target} for each in wanted.archives]
    return {**wanted.more, **({ARCHIVES: archives} if archives else {})}
