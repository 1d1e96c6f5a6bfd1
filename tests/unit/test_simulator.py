"""The packing experiment on small clusters, and what is said of malformed traces."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.packing.scoring import PackingPolicy
from scheduler.simulator.fill import FillReport, fill
from scheduler.simulator.openb import Node, Task, read_nodes, read_tasks

NODES = """sn,cpu_milli,memory_mib,gpu,model
n1,32000,1000,2,T4
n2,64000,1000,4,V100
n3,8000,1000,0,
"""
TASKS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos
whole,4000,10,1,1000,,LS
share,1000,10,1,460,T4|P100,BE
four,8000,10,4,1000,V100,LS
cpu,3000,10,0,0,,LS
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "tasks.csv").write_text(TASKS)
    return tmp_path


def simulate(trace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    files = ("--nodes", str(trace / "nodes.csv"), "--tasks", str(trace / "tasks.csv"))
    return subprocess.run(
        [sys.executable, "-m", "scheduler.simulator", *files, *arguments], capture_output=True, text=True, check=False
    )


def run(trace: Path, policy: PackingPolicy = PackingPolicy.FRAGMENTATION, seed: int = 1) -> FillReport:
    return fill(read_nodes(trace / "nodes.csv"), read_tasks(trace / "tasks.csv"), policy=policy, seed=seed)


@pytest.mark.parametrize("policy", list(PackingPolicy))
def test_a_filled_cluster_is_within_its_bounds_and_refuses_only_what_fits_nowhere(
    trace: Path, policy: PackingPolicy
) -> None:
    nodes = {node.name: node for node in read_nodes(trace / "nodes.csv")}
    cpu = {name: node.cpu_milli for name, node in nodes.items()}
    gpus = {name: [1000] * node.gpus for name, node in nodes.items()}
    report = run(trace, policy)
    for each in report.assignments:
        if each.node is None:
            assert not [name for name, node in nodes.items() if _fits(each.task, node, cpu[name], gpus[name])]
            continue
        assert _fits(each.task, nodes[each.node], cpu[each.node], gpus[each.node])
        cpu[each.node] -= each.task.shape.cpu_milli
        for index in each.devices:
            gpus[each.node][index] -= each.task.shape.milli
            assert gpus[each.node][index] >= 0
        assert len(each.devices) == each.task.shape.gpus
    assert report.curve[-1][0] >= 130


def _fits(task: Task, node: Node, cpu_milli: int, gpus: list[int]) -> bool:
    enough = sum(free >= task.shape.milli for free in gpus) >= task.shape.gpus
    return enough and cpu_milli >= task.shape.cpu_milli and (not task.models or node.model in task.models)


def test_the_same_seed_gives_the_same_run_and_another_one_another(trace: Path) -> None:
    assert run(trace) == run(trace)
    assert [each.name for each in run(trace).assignments] != [each.name for each in run(trace, seed=2).assignments]


def test_every_task_comes_once_before_any_comes_again(trace: Path) -> None:
    names = [each.name for each in run(trace).assignments]
    assert sorted(names[:4]) == ["cpu", "four", "share", "whole"]
    assert all("#" in name for name in names[4:])
    assert len(set(names)) == len(names)


def test_what_the_command_writes(trace: Path) -> None:
    out, plot = trace / "out.csv", trace / "curve.svg"
    done = simulate(trace, "--seed", "3", "--json", "--out", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    report = run(trace, seed=3)
    document = json.loads(done.stdout)
    assert document["allocated_percent_at_100"] == round(report.allocated_percent, 4)
    lines = out.read_text().splitlines()
    assert lines[0] == "task,node,devices"
    rows = list(csv.DictReader(lines))
    assert [row["task"] for row in rows] == [each.name for each in report.assignments]
    expected = {"cpu": r"", "share": r"[01]:460", "whole": r"[0-3]:1000", "four": r"0:1000;1:1000;2:1000;3:1000"}
    for row in rows:
        devices = expected[row["task"].partition("#")[0]] if row["node"] else ""
        assert re.fullmatch(devices, row["devices"]), row
    assert {row["task"].partition("#")[0] for row in rows if row["node"]} == expected.keys()
    assert sum(not row["node"] for row in rows) == report.refused > 0
    assert plot.read_text().startswith("<svg")


def test_the_models_that_a_task_may_run_on_are_all_that_it_gets(trace: Path) -> None:
    """`gpu_spec` by itself: one model, several, one that there is not, and none at all."""
    (trace / "tasks.csv").write_text(
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
        "one,1000,10,1,1000,V100\nseveral,1000,10,1,1000,P100|T4\nnowhere,1000,10,1,1000,P100\nany,1000,10,1,1000,\n"
    )
    specs = {task.name: task.models for task in read_tasks(trace / "tasks.csv")}
    assert specs == {"one": {"V100"}, "several": {"P100", "T4"}, "nowhere": {"P100"}, "any": frozenset()}
    got: dict[str, set[str | None]] = {}
    for seed in range(5):
        for each in run(trace, seed=seed).assignments:
            got.setdefault(each.task.name, set()).add(each.node)
    assert got["one"] - {None} == {"n2"}, "the V100s"
    assert got["several"] - {None} == {"n1"}, "the T4s"
    assert got["nowhere"] == {None}
    assert got["any"] >= {"n1", "n2"}


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("nodes.csv", "n2,64000", "n2,many", "nodes.csv, line 3, column cpu_milli: a whole number"),
        ("nodes.csv", "n2,", "n1,", "nodes.csv, line 3, column sn: a name that no line before has"),
        ("nodes.csv", "gpu,model", "gpus,model", "nodes.csv, line 1, column gpu: it is missing"),
        ("nodes.csv", "2,T4", "2", "nodes.csv, line 2, column model: 5 values are expected, not 4"),
        ("tasks.csv", "460", "0", "tasks.csv, line 3, column gpu_milli: a number from 1 to 1000"),
        ("tasks.csv", "4,1000,V100", "4,500,V100", "tasks.csv, line 4, column gpu_milli: 1000, since"),
        ("tasks.csv", "3000", "-3000", "tasks.csv, line 5, column cpu_milli: a number from 0"),
        ("tasks.csv", TASKS, "", "tasks.csv, line 1, column name: it is missing"),
    ],
)
def test_a_malformed_file_is_told_in_one_line(trace: Path, file: str, old: str, new: str, said: str) -> None:
    path = trace / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    done = simulate(trace)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_file_that_is_not_there(trace: Path) -> None:
    (trace / "tasks.csv").unlink()
    done = simulate(trace)
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith("tasks.csv: No such file or directory")
