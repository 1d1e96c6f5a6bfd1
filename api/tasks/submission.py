"""What is submitted: one or more tasks, and what goes with each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.tasks.spec import TaskSpec
from api.uploads.references import ArchiveUse


@dataclass(frozen=True, slots=True)
class Wanted:
    """One task. `working_dir` is the digest of an upload of the customer's, unpacked in the working directory.

    `archives` go to where their targets say. `submission_id` is unique among the customer's tasks. `more` is kept with
    it for whoever submits: JSON.
    """

    spec: TaskSpec
    working_dir: str | None = None
    submission_id: str | None = None
    archives: tuple[ArchiveUse, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON


@dataclass(frozen=True, slots=True)
class Submission:
    """`workspace` is a name, None: the default one."""

    tasks: Sequence[Wanted]
    workspace: str | None = None
