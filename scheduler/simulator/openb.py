"""The node and task tables of Alibaba's cluster-trace-gpu-v2023 ("openb")."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.shape import Shape
from scheduler.simulator.trace import Trace, Work
from scheduler.views import DeviceView, HostView

_MIB = 2**20
_MAX_GPUS = 64  # of one host
_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_TASK_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")
_TIME_COLUMNS = ("creation_time", "deletion_time")  # seconds since the beginning of the trace
_MAX_S = 10**9


class TraceError(ValueError):
    """A malformed file; the message names file, line and column."""


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    cpu_milli: int
    memory_bytes: int
    gpus: int
    model: str


@dataclass(frozen=True, slots=True)
class Task:
    """`models` are those that it may run on; empty means any. Times are seconds, None where the table has none."""

    name: str
    shape: Shape
    models: frozenset[str]
    created_s: int | None = None
    deleted_s: int | None = None


@dataclass(frozen=True, slots=True)
class _Cell:
    """One value of a table, and where it stands."""

    path: Path
    line: int
    column: str
    value: str

    def error(self, expected: str) -> TraceError:
        return TraceError(
            f"{self.path}, line {self.line}, column {self.column}: {expected} is expected, not {self.value!r}"
        )

    def integer(self, *, low: int = 0, high: int = 2**50) -> int:
        try:
            number = int(self.value)
        except ValueError:
            raise self.error("a whole number") from None
        if not low <= number <= high:
            raise self.error(f"a number from {low} to {high}")
        return number

    def name(self) -> str:
        if not self.value:
            raise self.error("a name")
        return self.value


def read_nodes(path: Path) -> list[Node]:
    """
    Raises:
        TraceError, OSError
    """
    nodes = [
        Node(
            name=row["sn"].name(),
            cpu_milli=row["cpu_milli"].integer(low=1),
            memory_bytes=row["memory_mib"].integer(low=1) * _MIB,
            gpus=row["gpu"].integer(high=_MAX_GPUS),
            model=row["model"].value,
        )
        for row in _rows(path, _NODE_COLUMNS, unique="sn")
    ]
    if not any(node.gpus for node in nodes):
        raise TraceError(f"{path}, line 1, column gpu: there is no node with a GPU")
    return nodes


def read_tasks(path: Path, *, timed: bool = False) -> list[Task]:
    """`timed`: with the times at which they came and went.

    Raises:
        TraceError, OSError
    """
    columns = (*_TASK_COLUMNS, *_TIME_COLUMNS) if timed else _TASK_COLUMNS
    tasks = [_task(row, timed=timed) for row in _rows(path, columns, unique="name")]
    if not any(task.shape.gpus for task in tasks):
        raise TraceError(f"{path}, line 1, column num_gpu: there is no task that asks for a GPU")
    return tasks


def read_trace(nodes: Path, tasks: Path) -> Trace:
    """Tasks that come when they were created, and run for as long as they were there.

    Raises:
        TraceError, OSError
    """
    hosts = tuple(as_host(node, number) for number, node in enumerate(read_nodes(nodes), start=1))
    work = sorted((_work(task) for task in read_tasks(tasks, timed=True)), key=lambda each: each.arrives_ms)
    return Trace(hosts, tuple(work))


def as_host(node: Node, host_id: int) -> HostView:
    """Device ids are `64 * host id + index`."""
    first = host_id * _MAX_GPUS
    devices = tuple(
        DeviceView(first + index, f"{node.name}-{index}", node.model, node.memory_bytes) for index in range(node.gpus)
    )
    return HostView(host_id, node.name, node.name, node.cpu_milli, node.memory_bytes, devices)


def demand_of(task: Task) -> Demand:
    return Demand(task.shape, models=tuple(sorted(task.models)))


def _work(task: Task) -> Work:
    assert task.created_s is not None and task.deleted_s is not None
    shape = task.shape
    kind = f"{shape.gpus} GPU" if shape.milli == MILLI_PER_GPU else "share"
    return Work(task.name, kind, demand_of(task), task.created_s * 1000, (task.deleted_s - task.created_s) * 1000)


def _task(row: dict[str, _Cell], *, timed: bool) -> Task:
    gpus = row["num_gpu"].integer(high=_MAX_GPUS)
    # The trace has 0 thousandths where it has 0 GPUs.
    milli = row["gpu_milli"].integer(low=1, high=MILLI_PER_GPU) if gpus else MILLI_PER_GPU
    if gpus > 1 and milli != MILLI_PER_GPU:
        raise row["gpu_milli"].error(f"{MILLI_PER_GPU}, since the task asks for several GPUs,")
    shape = Shape(row["cpu_milli"].integer(), row["memory_mib"].integer() * _MIB, gpus, milli)
    created_s = row["creation_time"].integer(high=_MAX_S) if timed else None
    return Task(
        row["name"].name(),
        shape,
        frozenset(filter(None, row["gpu_spec"].value.split("|"))),
        created_s,
        row["deletion_time"].integer(low=created_s, high=_MAX_S) if created_s is not None else None,
    )


def _rows(path: Path, columns: tuple[str, ...], *, unique: str) -> Iterator[dict[str, _Cell]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(_decoded(path, file), strict=True)
        try:
            header = next(reader, [])
            positions = _positions(path, header, columns)
            names: set[str] = set()
            for values in reader:
                if len(values) != len(header):
                    raise TraceError(
                        f"{path}, line {reader.line_num}, column {header[min(len(values), len(header) - 1)]}: "
                        f"{len(header)} values are expected, not {len(values)}"
                    )
                row = {
                    column: _Cell(path, reader.line_num, column, values[position].strip())
                    for column, position in positions.items()
                }
                if row[unique].value in names:
                    raise row[unique].error("a name that no line before has")
                names.add(row[unique].value)
                yield row
        except csv.Error as error:
            raise TraceError(f"{path}, line {reader.line_num}, column 1: {error}") from error


def _positions(path: Path, header: list[str], columns: tuple[str, ...]) -> dict[str, int]:
    names = [name.strip() for name in header]
    for column in columns:
        if column not in names:
            raise TraceError(f"{path}, line 1, column {column}: it is missing; the columns are {', '.join(columns)}")
    return {column: names.index(column) for column in columns}


def _decoded(path: Path, lines: Iterator[str]) -> Iterator[str]:
    number = 0
    while True:
        try:
            line = next(lines, None)
        except UnicodeDecodeError as error:
            raise TraceError(f"{path}, line {number + 1}, column 1: it is not UTF-8 text: {error.reason}") from error
        if line is None:
            return
        number += 1
        yield line
