"""Which uploads tasks need: those are kept, and given to the hosts that run them."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.tasks.tables import OPEN, Task

# Of tasks that have not ended; as `digests_of` has it.
_NEEDED = text(
    "select working_dir from tasks"
    f" where customer_id = :customer_id and working_dir is not null and state in ({OPEN})"
    " union"
    " select archive ->> 'digest' from tasks, jsonb_array_elements(more -> 'archives') as archive"
    f" where customer_id = :customer_id and state in ({OPEN})"
)


def digests_of(task: Task) -> frozenset[str]:
    """Of its working directory, and of the archives beside that."""
    beside = {str(archive["digest"]) for archive in task.more.get("archives", ())}
    return frozenset(beside if task.working_dir is None else beside | {task.working_dir})


def needed(session: Session, *, customer_id: int) -> frozenset[str]:
    """The digests that open tasks of a customer name."""
    return frozenset(session.scalars(_NEEDED, {"customer_id": customer_id}))
