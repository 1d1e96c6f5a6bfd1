"""Which uploads a task needs: those are kept, and given to the host that runs it."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.tasks.tables import OPEN, Task

# Of tasks that have not ended. `more` is as `archives_of` reads it.
_NEEDED = text(
    "select working_dir as digest from tasks"
    f" where customer_id = :customer_id and working_dir is not null and state in ({OPEN})"
    " union"
    " select archive ->> 'digest' from tasks, jsonb_array_elements(more -> 'archives') as archive"
    f" where customer_id = :customer_id and jsonb_typeof(more -> 'archives') = 'array' and state in ({OPEN})"
)


@dataclass(frozen=True, slots=True)
class ArchiveUse:
    """`target` is where it is unpacked in the container; None: it is the working directory."""

    digest: str
    target: str | None


def archives_of(task: Task) -> tuple[ArchiveUse, ...]:
    """The working directory, then those of `more`: `{"archives": [{"digest": ..., "target": ...}, ...]}`."""
    more = [ArchiveUse(archive["digest"], archive["target"]) for archive in task.more.get("archives", ())]
    return tuple(([ArchiveUse(task.working_dir, None)] if task.working_dir is not None else []) + more)


def needed(session: Session, *, customer_id: int) -> frozenset[str]:
    """The digests that open tasks of a customer name."""
    return frozenset(session.scalars(_NEEDED, {"customer_id": customer_id}))
