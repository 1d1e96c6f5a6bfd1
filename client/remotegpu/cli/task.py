"""`remotegpu task`: what runs, has run, or waits to."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Annotated

import msgspec
import typer

from remotegpu.cli.node_output import NodesOutput
from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_json_line, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.task_exec import exec_in_task
from remotegpu.cli.task_options import AfterDashes
from remotegpu.cli.task_output import LogOutput, described, ended, ended_element, exit_code, leaving_it_running, note
from remotegpu.cli.units import gpus, moment, now_here
from remotegpu.models import Attempt, Element, ElementCounts, LogRecord, Task, TaskDetail

app = typer.Typer(help="Commands that run to their end on rented GPUs; see also `remotegpu run`.", no_args_is_help=True)

_FAILURES_SHOWN = 5

Name = Annotated[str, typer.Argument(help="The task's name (the newest of that name), its id, or how its id begins.")]


@app.command("list")
def list_tasks(
    context: typer.Context,
    state: Annotated[str | None, typer.Option("--state", help="Only those in this state, as running.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Only those of this name.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", help="Only those of this workspace.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="How many at most.", min=1)] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Show tasks, the newest first: why they wait and until when, or how far they are."""
    with connected(context) as client:
        found = list(islice(client.tasks.list(state=state, name=name, workspace=workspace), limit))
        if as_json:
            print_json(found)
            return
        now = now_here()
        rows = [
            (task.name, task.id, task.state, _gpus(task), task.owner, moment(task.created_at, now=now), note(task))
            for task in found
        ]
        print_rows(["NAME", "ID", "STATE", "GPUS", "OWNER", "SUBMITTED", "NOTE"], rows, empty="There are no tasks.")


@app.command("show")
def show(context: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Show one task with its attempts, and what it waits for."""
    with connected(context) as client:
        task = client.tasks.find(name)
        _show(task, as_json=as_json)
        if task.elements is not None and task.elements.failed and not as_json:
            console.print()
            _print_elements(islice(client.tasks.elements(task.id, state="failed"), _FAILURES_SHOWN))


def _show(task: TaskDetail, *, as_json: bool) -> None:
    if as_json:
        print_json(task)
        return
    now = now_here()
    times = [(title, at) for title, at in (("started", task.started_at), ("ended", task.ended_at)) if at is not None]
    print_fields(
        [
            ("name", task.name),
            ("id", task.id),
            ("state", task.state.replace("_", " ")),
            ("note", note(task) or None),
            ("elements", _counts(task.elements) if task.elements is not None else None),
            ("command", task.spec.get("command")),
            ("image", task.image),
            ("GPUs", _gpus(task)),
            ("host", task.host),
            ("owner", task.owner),
            ("workspace", task.workspace),
            ("submitted", moment(task.created_at, now=now)),
            *((title, moment(at, now=now)) for title, at in times),
            *(("after", f"{each.name} ({each.condition}): {each.state}") for each in task.dependencies),
        ]
    )
    if task.attempt_list:
        console.print()
        titles = ["ATTEMPT", "STATE", "HOST", "GPUS", "STARTED", "ENDED", "NOTE"]
        print_rows(titles, [_row(attempt) for attempt in task.attempt_list], empty="")


@app.command("elements")
def elements(
    context: typer.Context,
    name: Name,
    state: Annotated[str | None, typer.Option("--state", help="Only those in this state, as failed.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="How many at most.", min=1)] = 100,
    as_json: JsonFlag = False,
) -> None:
    """Show the elements of an array that have started, by their indices."""
    with connected(context) as client:
        found = islice(client.tasks.elements(client.tasks.find(name).id, state=state), limit)
        print_json(list(found)) if as_json else _print_elements(found)


def _print_elements(found: Iterable[Element]) -> None:
    now = now_here()
    rows = [
        (
            each.index, each.state.replace("_", " "), each.attempt, each.tries,
            moment(each.started_at, now=now) if each.started_at is not None else None, ended_element(each),
        )
        for each in found
    ]  # fmt: skip
    titles = ["ELEMENT", "STATE", "ATTEMPT", "TRIES", "STARTED", "NOTE"]
    print_rows(titles, rows, empty="No such element has started.")


def _counts(counts: ElementCounts) -> str:
    told = (
        f"{number} {word}"
        for number, word in (
            (counts.succeeded, "succeeded"), (counts.failed, "failed"), (counts.running, "running"),
            (counts.pending, "pending"),
        )
        if number
    )  # fmt: skip
    return f"{counts.total}: {', '.join(told)}"


def _gpus(task: Task) -> str:
    each = gpus(task.gpus * task.gpu_milli)
    return each if task.nodes == 1 else f"{task.nodes} x {each}"


def _row(attempt: Attempt) -> tuple[object, ...]:
    now = now_here()
    times = [moment(at, now=now) if at is not None else None for at in (attempt.started_at, attempt.ended_at)]
    return attempt.number, attempt.state, attempt.host, _devices(attempt), *times, ended(attempt)


def _devices(attempt: Attempt) -> str | None:
    if not attempt.devices:
        return None
    simulated = " (simulated)" if any(device.simulated for device in attempt.devices) else ""
    return f"{gpus(sum(device.milli for device in attempt.devices))} x {attempt.devices[0].model}{simulated}"


@app.command("logs")
def logs(
    context: typer.Context,
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it has ended, over all attempts.")] = False,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Of that attempt; default: the newest.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Of that node alone; default: of all.", min=0)] = None,
    element: Annotated[int | None, typer.Option("--element", help="Of that element of an array.", min=0)] = None,
    position: Annotated[int, typer.Option("--since-position", help="From that byte on.", min=0)] = 0,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only what it wrote to stdout.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only what it wrote to stderr.")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="When each line was written.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print a task's output as it was written: its stdout to stdout, its stderr to stderr.

    Of several nodes' output, each line of the others than the first says whose it is.
    """
    if stdout and stderr:
        raise typer.BadParameter("give --stdout or --stderr; without them, both are printed")
    if element is not None and rank:
        raise typer.BadParameter("an element runs on one node: give no --rank")
    only = "stdout" if stdout else "stderr" if stderr else None
    output = LogOutput(only=only, timestamps=timestamps)
    with connected(context) as client:
        task = client.tasks.find(name)
        if rank is None and task.nodes > 1 and not position:  # a position is one node's
            nodes = NodesOutput(client, task.id, range(task.nodes), attempt)
            with leaving_it_running([task] if follow else []):
                _print_nodes(nodes.follow() if follow else nodes.read(), output, as_json=as_json)
            return
        found = client.tasks.logs(
            task.id, follow=follow, attempt=attempt, rank=rank or 0, position=position, stream=only, element=element
        )
        with leaving_it_running([task] if follow else []):
            for record in found:
                print_json_line(record) if as_json else output.write(record)


def _print_nodes(records: Iterable[tuple[int, LogRecord]], output: LogOutput, *, as_json: bool) -> None:
    if not as_json:
        output.write_nodes(records)
        return
    for rank, record in records:
        if output.only in (None, record.stream) or record.dropped is not None:
            print_json_line({"rank": rank, **msgspec.structs.asdict(record)})


app.command("exec", cls=AfterDashes)(exec_in_task)


@app.command("cancel")
def cancel(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Their names or ids.")],
    as_json: JsonFlag = False,
) -> None:
    """Ask tasks to end. What runs is told, and has its grace; its output stays."""
    with connected(context) as client:
        _say([client.tasks.cancel(client.tasks.find(name).id) for name in names], as_json=as_json)


@app.command("retry")
def retry(context: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Run a task that has ended once more."""
    with connected(context) as client:
        _say([client.tasks.retry(client.tasks.find(name).id)], as_json=as_json)


def _say(tasks: Iterable[Task], *, as_json: bool) -> None:
    if as_json:
        print_json(list(tasks))
        return
    for task in tasks:
        console.print(described(task), markup=False, soft_wrap=True)


@app.command("wait")
def wait(
    context: typer.Context,
    name: Name,
    timeout: Annotated[float | None, typer.Option("--timeout", help="How many seconds to wait at most.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Wait until a task has ended, and exit with its exit code."""
    with connected(context) as client:
        task, output = client.tasks.find(name), LogOutput()
        with leaving_it_running([task]):
            over = client.tasks.wait(
                task.id, timeout_s=timeout, on_change=None if as_json else lambda now: output.say(described(now))
            )
        if as_json:
            print_json(over)
        sys.exit(exit_code(over))
