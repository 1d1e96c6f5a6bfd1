"""Where in the output of an array's workers that of one element is: a part for each of its tries."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import bindparam, literal, null, select, union_all

from api.db import Database
from api.errors import NotFound
from api.logs.attempts import VISIBLE, values_of
from api.logs.reading import LogRef
from api.principal import Principal
from api.reading import Statement
from api.tasks import ranges
from api.tasks.tables import Task, TaskArray, TaskAttempt, TaskElement, TaskElementTry
from scheduler.states import TASK, TaskState

_STATE = Statement(
    select(Task.state, TaskElement.state, TaskArray.pending)
    .join(TaskArray, TaskArray.task_id == Task.id)
    .outerjoin(TaskElement, (TaskElement.task_id == Task.id) & (TaskElement.index == bindparam("element")))
    .where(*VISIBLE)
)

# An element that waits to be tried again has its last try among the earlier ones.
_EARLIER = (
    select(TaskElementTry.id.label("number"), TaskElementTry.attempt_id, TaskElementTry.log_from, TaskElementTry.log_to)
    .join(Task, Task.id == TaskElementTry.task_id)
    .where(TaskElementTry.index == bindparam("element"), *VISIBLE)
)
_LAST = (
    select(null().label("number"), TaskElement.attempt_id, TaskElement.log_from, TaskElement.log_to)
    .join(Task, Task.id == TaskElement.task_id)
    .where(TaskElement.index == bindparam("element"), *VISIBLE)
    .where(TaskElement.log_from.is_not(None), TaskElement.state != literal(TaskState.QUEUED))
)
_ALL = union_all(_EARLIER, _LAST).subquery()
_TRIES = Statement(
    select(TaskAttempt.id, TaskAttempt.uid, TaskAttempt.number, _ALL.c.log_from, _ALL.c.log_to)
    .join(_ALL, _ALL.c.attempt_id == TaskAttempt.id)
    .order_by(_ALL.c.number.nulls_last())
)


@dataclass(frozen=True, slots=True)
class Part:
    """Of a worker's output. No `end`: it has none yet, or what there is ends with the attempt."""

    log: LogRef
    begin: int
    end: int | None


@dataclass(frozen=True, slots=True)
class ElementLog:
    """The tries that have begun, in their order. `over`: there are no more, and the last one has ended."""

    parts: Sequence[Part]
    over: bool

    def at(self, attempt: int | None, position: int) -> int | None:
        """Which of its tries has that position of an attempt, by default the last try; None: none."""
        if attempt is None:
            return len(self.parts) - 1 if self.parts else None
        found = (
            number
            for number, part in enumerate(self.parts)
            if part.log.number == attempt and (part.end is None or position <= part.end)
        )
        return next(found, None)


async def find_element(database: Database, principal: Principal, task_uid: UUID, index: int) -> ElementLog:
    """
    Raises:
        NotFound: no such task or element, or not for this principal to see.
    """
    values = values_of(principal, task_uid) | {"element": index}
    states = await database.read(_STATE, values)  # before its tries: when it is over, they are all there
    if not states:
        raise NotFound("There is no such array.")
    array, element, pending = states[0]
    if element is None and not ranges.contains(ranges.from_text(pending), index):
        raise NotFound("The array has no such element.")
    over = not TASK[TaskState(array)] or (element is not None and not TASK[TaskState(element)])
    rows = await database.read(_TRIES, values)
    parts = [Part(LogRef(attempt_id, uid, number, 0), begin, end) for attempt_id, uid, number, begin, end in rows]
    return ElementLog(parts, over)
