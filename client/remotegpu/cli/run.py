"""`remotegpu run`: submit tasks from files, or a command, and follow them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from remotegpu.cli import asking
from remotegpu.cli import task_options as told
from remotegpu.cli.output import JsonFlag, console, print_fields, print_json
from remotegpu.cli.session import Exit, connected, errors
from remotegpu.cli.task_output import LogOutput, exit_code, follow_to_end, leaving_it_running
from remotegpu.cli.telling import planned
from remotegpu.cli.units import money, now_here
from remotegpu.client import Client
from remotegpu.documents import BadDocument, Document, read_documents
from remotegpu.errors import Refused
from remotegpu.folder import BadFolder, check_size, entries
from remotegpu.models import Task, TaskPlan
from remotegpu.tasks import Submission
from remotegpu.uploads import OnSent

_USAGE = 2
_SHOWN_FROM = 4 * 2**20  # bytes of an upload that get a bar
_OPTIONS = "the options"

Files = Annotated[list[Path] | None, typer.Argument(help="Files of tasks, submitted together.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the id, and don't follow.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show when it would start and what it would cost at most.")]


def run(
    context: typer.Context,
    files: Files = None,
    name: told.Name = None,
    image: told.Image = "base",
    gpus: told.Gpus = "1",
    gpu_model: told.Models = None,
    cpus: told.Cpus = None,
    memory: told.Memory = None,
    shm: told.Shm = None,
    nodes: told.Nodes = None,
    ray: told.Ray = None,
    working_dir: told.WorkingDir = None,
    env: told.Env = None,
    secret: told.Secret = None,
    mount: told.Mount = None,
    setup: told.Setup = None,
    priority: told.Priority = None,
    preemptible: told.Preemptible = None,
    timeout: told.Timeout = None,
    array: told.Array = None,
    depends_on: told.DependsOn = None,
    workspace: asking.Workspace = None,
    detach: Detach = False,
    dry_run: DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """Run tasks from files, or the command after `--`, and exit with the task's exit code.

    Its output is followed to the end; Ctrl-C leaves it running.
    """
    described = told.Described(
        name=name, image=image, gpus=gpus, gpu_model=gpu_model, cpus=cpus, memory=memory, shm=shm, nodes=nodes,
        ray=ray, working_dir=working_dir, env=env, secret=secret, mount=mount, setup=setup, priority=priority,
        preemptible=preemptible, timeout=timeout, array=array, depends_on=depends_on,
    )  # fmt: skip
    documents = _documents(context, files or [], described)
    with connected(context) as client:
        if dry_run:
            _plan(client, documents, workspace=workspace, as_json=as_json)
            return
        tasks = _submit(client, documents, workspace=workspace, quiet=as_json)
        if not detach:
            _see_through(client, tasks, as_json=as_json)
        elif as_json:
            print_json(tasks)
        else:
            for task in tasks:
                console.print(task.id, soft_wrap=True)


def _documents(context: typer.Context, files: Sequence[Path], described: told.Described) -> list[Document]:
    words = told.words_after_dashes(context)
    if words and files:
        raise typer.BadParameter("give files, or a command after `--`, not both")
    if words:
        return [Document(described.document(words), Path(), _OPTIONS)]
    if not files:
        raise typer.BadParameter("give a file, or a command after `--`: remotegpu run --gpus 1 -- python train.py")
    if stray := told.given_options(context, told.DESCRIBING):
        raise typer.BadParameter(f"with a file, what a task is belongs in it: {', '.join(stray)}")
    try:
        return [document for file in files for document in read_documents(file)]
    except BadDocument as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(_USAGE)


def _submit(client: Client, documents: Sequence[Document], *, workspace: str | None, quiet: bool) -> list[Task]:
    with _placed(documents):
        ready = [_prepared(client, document, quiet=quiet) for document in documents]
        return client.tasks.submit(*ready, workspace=workspace)


def _prepared(client: Client, document: Document, *, quiet: bool) -> Submission:
    with _bar(document, quiet=quiet) as on_sent:
        try:
            return client.tasks.prepare(document.task, document.folder, on_sent=on_sent)
        except BadFolder as error:
            raise BadFolder(f"{document.place(['working_dir'])}: {error}") from error


@contextmanager
def _bar(document: Document, *, quiet: bool) -> Iterator[OnSent | None]:
    """Shows how far a large upload is."""
    if quiet or not errors.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        bar = progress.add_task(escape(str(document.task.get("working_dir"))), visible=False)

        def sent(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total, visible=total >= _SHOWN_FROM)

        yield sent


def _see_through(client: Client, tasks: list[Task], *, as_json: bool) -> NoReturn:
    """Follow each to its end, in the order of the submission; exit as the first that did not succeed."""
    with leaving_it_running(tasks):
        if as_json:
            over = [client.tasks.wait(task.id) for task in tasks]
            print_json(over)
        else:
            output = LogOutput()
            over = [follow_to_end(client, task, output) for task in tasks]
    sys.exit(next((code for code in map(exit_code, over) if code), 0))


def _plan(client: Client, documents: Sequence[Document], *, workspace: str | None, as_json: bool) -> None:
    folders = [_folder(document) for document in documents]
    with _placed(documents):
        plans = client.tasks.plan(*(document.task for document in documents), workspace=workspace)
    if as_json:
        print_json(plans)
        return
    for plan, folder in zip(plans, folders, strict=True):
        print_fields([("task", plan.name), ("working directory", folder), *_terms(plan)])


def _folder(document: Document) -> str:
    """What of its working directory would be uploaded."""
    working_dir = document.task.get("working_dir")
    if not isinstance(working_dir, str):
        return "the image's"
    found = entries(Path(document.folder, working_dir))
    return f"{len(found)} files, {check_size(found) / 2**20:.1f} MiB"


def _terms(plan: TaskPlan) -> list[tuple[str, object]]:
    ceiling = money(plan.ceiling_micro, plan.currency) if plan.ceiling_micro is not None else "none without a timeout"
    return [*planned(plan.plan, now=now_here()), ("cost at most", ceiling)]


@contextmanager
def _placed(documents: Sequence[Document]) -> Iterator[None]:
    """Tell what the platform finds wrong with the documents with file and line."""
    try:
        yield
    except Refused as error:
        lines = [
            f"{documents[int(place)].place(path)}: {_path(path)}{mistake.said}"
            for mistake in error.mistakes
            for _, place, _, *path in [mistake.loc if len(mistake.loc) > 2 else ("", "", "")]
            if place.isdigit() and int(place) < len(documents)
        ]
        if not lines:
            raise
        errors.print("\n".join(f"[red]error:[/red] {escape(line)}" for line in lines), soft_wrap=True)
        sys.exit(Exit.REFUSED)


def _path(loc: Sequence[str]) -> str:
    """As people write it: `mounts[0].path: `."""
    path = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in loc if part != "[key]")
    return f"{path.removeprefix('.')}: " if path else ""
