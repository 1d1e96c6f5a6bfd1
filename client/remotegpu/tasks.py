"""Tasks: commands that run to their end on rented GPUs."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from remotegpu import execution, logs
from remotegpu.environments import WaitTimeout
from remotegpu.errors import NotFound, Refused
from remotegpu.execution import Execution
from remotegpu.models import Element, LogBatch, LogRecord, Task, TaskDetail, TaskPlan
from remotegpu.transport import Transport
from remotegpu.uploads import OnSent, Uploads

_PATH = "/customer/tasks"
_FIRST_POLL_S, _LAST_POLL_S = 0.1, 2.0
_SEARCHED = 5000  # of the newest tasks, for one whose id begins so
_ID = re.compile(r"[0-9a-f-]{4,36}")

TaskDocument = Mapping[str, Any]
"""A task's document, as the published schema has it."""

OnChange = Callable[[Task], None]


@dataclass(frozen=True, slots=True)
class Submission:
    """A document, and the digest of the uploaded folder that is its `working_dir`."""

    task: TaskDocument
    working_dir: str | None = None

    def body(self) -> dict[str, Any]:  # Any: JSON
        return {"task": self.task, "working_dir": self.working_dir}


class Tasks:
    def __init__(self, transport: Transport, uploads: Uploads) -> None:
        self._transport = transport
        self._uploads = uploads

    def run(self, command: str | Sequence[str], *, workspace: str | None = None, **document: Any) -> Task:
        """Submit one task: `run(["python", "train.py"], image="base", resources={"gpus": 2}, working_dir=".")`.

        A list becomes a shell command that has exactly these words. Further arguments are the document's keys; a name
        is made up from the command if none is given.

        Raises:
            BadFolder: `working_dir` can't be uploaded.
            Refused: see `submit`.
        """
        shell = command if isinstance(command, str) else shlex.join(command)
        return self.submit({"name": made_up_name(shell), **document, "command": shell}, workspace=workspace)[0]

    def submit(
        self, *tasks: TaskDocument | Submission, workspace: str | None = None, folder: Path | str = "."
    ) -> list[Task]:
        """Submit tasks together: all of them, or none. Each is queued, and starts by itself.

        `folder` is what a document's `working_dir` is relative to.

        Raises:
            BadFolder: a `working_dir` can't be uploaded.
            Refused: a document has mistakes (they are in `mistakes`), names what is not there, ...
        """
        body = {"workspace": workspace, "tasks": [self.prepare(task, folder).body() for task in tasks]}
        return self._transport.post(_PATH, dict[str, list[Task]], body)["tasks"]

    def plan(self, *tasks: TaskDocument | Submission, workspace: str | None = None) -> list[TaskPlan]:
        """When and where each would start, and what it can cost at most. Nothing is queued or uploaded."""
        planned = [task if isinstance(task, Submission) else Submission(task) for task in tasks]
        body = {"workspace": workspace, "tasks": [task.body() for task in planned]}
        return self._transport.post(f"{_PATH}/plan", dict[str, list[TaskPlan]], body)["tasks"]

    def prepare(
        self, task: TaskDocument | Submission, folder: Path | str = ".", *, on_sent: OnSent | None = None
    ) -> Submission:
        """With its `working_dir` uploaded, if it has one."""
        if isinstance(task, Submission):
            return task
        working_dir = task.get("working_dir")
        if not isinstance(working_dir, str):
            return Submission(task)
        return Submission(task, self._uploads.folder(Path(folder, working_dir), on_sent=on_sent))

    def list(
        self, *, state: str | None = None, name: str | None = None, workspace: str | None = None
    ) -> Iterator[Task]:
        """Those of your customer that you may see, newest first."""
        return self._transport.pages(_PATH, Task, state=state, name=name, workspace=workspace, limit=100)

    def get(self, task_id: str) -> TaskDetail:
        return self._transport.get(f"{_PATH}/{task_id}", TaskDetail)

    def find(self, name_or_id: str) -> TaskDetail:
        """The newest task with that name; or the one with that id, or whose id alone begins so.

        Raises:
            NotFound: there is none.
            Refused: several ids begin so.
        """
        for named in self.list(name=name_or_id):
            return self.get(named.id)
        if _ID.fullmatch(name_or_id):
            found = [task.id for task in islice(self.list(), _SEARCHED) if task.id.startswith(name_or_id)]
            if len(found) == 1:
                return self.get(found[0])
            if found:
                detail = f"{len(found)} tasks have ids that begin with {name_or_id}: {', '.join(found[:3])}, ..."
                raise Refused(status=409, code="ambiguous", detail=detail)
        detail = f"There is no task {name_or_id!r}; `remotegpu task list` shows yours."
        raise NotFound(status=404, code="not_found", detail=detail)

    def elements(self, task_id: str, *, state: str | None = None) -> Iterator[Element]:
        """Those of an array that have started, by their indices."""
        return self._transport.pages(f"{_PATH}/{task_id}/elements", Element, state=state, limit=100)

    def cancel(self, task_id: str) -> Task:
        """Ask for its end. If it runs it is told, and has its grace."""
        return self._transport.post(f"{_PATH}/{task_id}/cancel", Task)

    def retry(self, task_id: str) -> Task:
        """Run what has ended once more."""
        return self._transport.post(f"{_PATH}/{task_id}/retry", Task)

    def wait(
        self,
        task_id: str,
        *,
        timeout_s: float | None = None,
        until: Callable[[TaskDetail], bool] = lambda task: task.is_over,
        on_change: OnChange | None = None,
    ) -> TaskDetail:
        """Wait until it has ended, or until `until` says so; without `timeout_s`, for as long as that takes.

        `on_change` sees each new state, attempt, and reason to wait.

        Raises:
            WaitTimeout: not within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        seen: tuple[object, ...] | None = None
        pause_s = _FIRST_POLL_S
        while True:
            task = self.get(task_id)
            if (told := _told(task)) != seen:
                seen, pause_s = told, _FIRST_POLL_S
                if on_change is not None:
                    on_change(task)
            if until(task):
                return task
            if deadline is not None and time.monotonic() > deadline:
                raise WaitTimeout(f"task {task.name} is still {task.state}")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.3, _LAST_POLL_S)

    def logs(
        self,
        task_id: str,
        *,
        follow: bool = False,
        attempt: int | None = None,
        rank: int = 0,
        position: int = 0,
        stream: str | None = None,
        element: int | None = None,
    ) -> Iterator[LogRecord]:
        """Its output: of `attempt`, or of the newest; from `position`, in bytes; of `stream` "stdout" or "stderr" only.

        With `follow`, until it has ended; without an `attempt` those that are begun after a preemption come as well.
        Of an array's `element` it is what its last try has written up to now; with `follow`, also what later ones do.
        """
        if follow and element is not None:
            batches = self.follow_element(task_id, element, attempt=attempt, position=position)
        elif follow:
            batches = self.follow(task_id, attempt=attempt, rank=rank, position=position)
        else:
            batches = self.output(
                task_id, attempt=attempt, rank=rank, position=position, stream=stream, element=element
            )
        for batch in batches:
            for record in batch.records:
                if stream in (None, record.stream) or record.dropped is not None:
                    yield record

    def output(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        rank: int = 0,
        position: int = 0,
        stream: str | None = None,
        element: int | None = None,
    ) -> Iterator[LogBatch]:
        """What there is of an attempt's output, or of an element's of an array, in batches."""
        path = f"{_PATH}/{task_id}/logs"
        read = partial(logs.read, self._transport, path, rank=rank, position=position, stream=stream)
        return read(attempt=attempt, element=element)

    def follow(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        rank: int = 0,
        position: int = 0,
        on_change: OnChange | None = None,
    ) -> Iterator[LogBatch]:
        """Its output in batches, as it comes, until `attempt` or else the task has ended. `on_change`: see `wait`."""
        number = attempt or max(1, self.get(task_id).attempts)
        path = f"{_PATH}/{task_id}/logs/follow"
        seen = _Seen(on_change)
        while True:
            begun = self.wait(task_id, until=partial(_has_begun, number=number), on_change=seen)
            if begun.attempts < number:
                return
            for batch in logs.follow(self._transport, path, attempt=number, rank=rank, position=position):
                if batch is not None:
                    yield batch
                elif seen.state != "running":
                    seen(self.get(task_id))  # its image is pulled, say
            if attempt is not None:
                return
            number, position = number + 1, 0

    def follow_element(
        self, task_id: str, element: int, *, attempt: int | None = None, position: int = 0
    ) -> Iterator[LogBatch]:
        """The output of an array's element as it comes, until that has ended: of its newest try, or of the one that
        has `position` in `attempt`, and of those that follow it.

        Raises:
            NotFound: the array has no such element, or it has no such try.
        """
        path = f"{_PATH}/{task_id}/logs/follow"
        batches = logs.follow(self._transport, path, attempt=attempt, rank=0, position=position, element=element)
        yield from (batch for batch in batches if batch is not None)

    def exec(
        self, task_id: str, command: Sequence[str], *, rank: int = 0, terminal: tuple[int, int] | None = None
    ) -> Execution:
        """Run a command in its container while it runs, as its own is run; with a terminal of those rows and columns.

            with client.tasks.exec(task.id, ["nvidia-smi"]) as running:
                running.end_input()
                for stream, data in running:
                    ...
            print(running.exit_code)

        Raises:
            NotFound: there is no such task or node.
            Refused: it does not run now.
            Disconnected: the platform can't be reached.
        """
        path = f"{_PATH}/{task_id}/exec"
        return execution.execute(self._transport, path, command, rank=rank, terminal=terminal)


def _has_begun(task: Task, number: int) -> bool:
    """That attempt, or there will be none."""
    return task.attempts >= number or task.is_over


class _Seen:
    """Passes on what has changed."""

    def __init__(self, on_change: OnChange | None) -> None:
        self._on_change = on_change
        self._told: tuple[object, ...] | None = None
        self.state = ""

    def __call__(self, task: Task) -> None:
        self.state = task.state
        told, self._told = self._told, _told(task)
        if told != self._told and self._on_change is not None:
            self._on_change(task)


def _told(task: Task) -> tuple[object, ...]:
    told = (task.state, task.detail, task.attempts, task.phase if task.state == "starting" else "")
    if task.wait is None:
        return told
    minute = task.wait.eta.replace(second=0, microsecond=0) if task.wait.eta is not None else None
    return *told, task.wait.code, task.wait.detail, task.wait.position, minute


def made_up_name(command: str) -> str:
    """A name for a task that has none: of what it runs, and unique."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    scripts = [word for word in words if word.endswith((".py", ".sh"))]
    modules = [following for word, following in pairwise(words) if word == "-m"]
    chosen = [*scripts, *modules, *words, "task"][0]
    stem = PurePosixPath(chosen).name.removesuffix(".py").removesuffix(".sh")
    slug = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40].strip("-")
    return f"{slug or 'task'}-{secrets.token_hex(3)}"
