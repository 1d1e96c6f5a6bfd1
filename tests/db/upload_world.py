"""Archives, and tasks that need them, for tests of uploads."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.images.tables import Image
from api.tasks.tables import Task
from scheduler.states import TaskState
from tests.db.conftest import Tenant


def archive_of(**files: str) -> bytes:
    """A zip archive, the same bytes for the same files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression=zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def add_task(
    session: Session, tenant: Tenant, *, name: str = "t", working_dir: str | None = None,
    more: Sequence[dict[str, Any]] = (), state: TaskState = TaskState.BLOCKED, allocation_id: int | None = None,
) -> Task:  # fmt: skip
    """`more` are the archives beside the working directory."""
    image = session.scalar(select(Image).limit(1))
    if image is None:
        image = Image(name="base", framework="f", version="1", reference="remotegpu/base:1", ports=[8888])
        session.add(image)
        session.flush()
    task = Task(
        customer_id=tenant.customer.id, workspace_id=tenant.workspace.id, user_id=tenant.member.user.id, name=name,
        spec={}, image_id=image.id, working_dir=working_dir, more={"archives": list(more)} if more else {},
        state=state, allocation_id=allocation_id,
    )  # fmt: skip
    session.add(task)
    session.flush()
    return task
