"""A task's document: what is read from it, and what is said of one that is wrong."""

import copy
import json
from typing import Any

import pytest
from pydantic import ValidationError

from api.tasks.array import Array
from api.tasks.graph import Condition
from api.tasks.mistakes import lines
from api.tasks.spec import CheckpointSignal, Dependency, Mount, Resources, RetryCause, TaskSpec
from tests.unit.task_samples import SMALL, TRAIN, Document, from_yaml


def mistakes(document: object) -> list[str]:
    try:
        TaskSpec.model_validate(document)
    except ValidationError as error:
        return lines(error)
    return []


def small(**fields: Any) -> Document:  # Any: what YAML or JSON holds
    return {**copy.deepcopy(SMALL), **fields}


def test_a_whole_one() -> None:
    task = TaskSpec.model_validate(from_yaml(TRAIN))
    needs = task.resources
    assert (needs.whole_gpus, needs.gpu_milli, needs.gpu_model, needs.cpu_milli) == (2, 1000, ["A100", "H100"], 8000)
    assert (needs.memory_bytes, needs.shm_bytes, needs.labels) == (32 * 10**9, 8 * 10**9, {"region": "eu"})
    assert (task.disconnect_s, task.timeout_s, task.nodes, task.priority) == (60, 21_600, 1, 200)
    assert (task.retry.max, task.retry.on, task.retry.backoff_s) == (3, [*RetryCause], 10)
    assert (task.checkpoint.signal, task.checkpoint.grace_s) == (CheckpointSignal.SIGTERM, 120)
    assert task.mounts == [Mount(volume="data", path="/data")]
    assert task.depends_on == [Dependency(task="prepare-data", condition=Condition.SUCCEEDED)]
    assert (task.env, task.secrets, task.working_dir) == ({"EPOCHS": "3"}, ["WANDB_KEY"], ".")
    assert task.elements == Array(((0, 9),))


def test_a_small_one() -> None:
    task = TaskSpec.model_validate(SMALL)
    assert task.resources == Resources()
    assert (task.resources.whole_gpus, task.resources.gpu_milli, task.resources.cpu_milli) == (1, 1000, None)
    assert (task.disconnect_s, task.timeout_s, task.elements, task.preemptible) == (60, None, None, False)


@pytest.mark.parametrize("document", [SMALL, from_yaml(TRAIN)], ids=["small", "whole"])
def test_what_is_kept_reads_the_same(document: Document) -> None:
    task = TaskSpec.model_validate(document)
    for kept in (task.model_dump_json(), task.model_dump_json(exclude_defaults=True)):
        assert TaskSpec.model_validate_json(kept) == task
        assert TaskSpec.model_validate(json.loads(kept)) == task


def test_shorter_ways_to_write_it() -> None:
    task = TaskSpec.model_validate(
        small(resources={"gpus": 0.46, "gpu_model": "A100", "cpus": 0.5, "memory": "1GiB"}, timeout=None,
              depends_on=["a", {"task": "b", "condition": "failed"}])
    )  # fmt: skip
    assert (task.resources.whole_gpus, task.resources.gpu_milli, task.resources.cpu_milli) == (1, 460, 500)
    assert task.resources.gpu_model == ["A100"]
    assert [(each.task, each.condition.value) for each in task.depends_on] == [("a", "succeeded"), ("b", "failed")]
    without = TaskSpec.model_validate(small(resources={"gpus": 0})).resources
    assert (without.whole_gpus, without.gpu_milli) == (0, 1000)


def test_labels_and_selectors_are_conditions_together() -> None:
    needs = Resources(labels={"region": "eu"}, selectors=["!spot", "zone in (a,b)"])
    assert needs.conditions == ["region=eu", "!spot", "zone in (a,b)"]
    many = {"labels": {f"l{n}": "" for n in range(10)}, "selectors": ["!spot"] * 7}
    assert mistakes(small(resources=many)) == ["resources.selectors: with `labels` there may be 16"]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"resources": {"gpu": 2}}, "resources.gpu: unknown key; did you mean resources.gpus?"),
        ({"dependson": []}, "dependson: unknown key; did you mean depends_on?"),
        ({"retry": {"maximum": 1}}, "retry.maximum: unknown key; did you mean retry.max?"),
        ({"gpus": 2}, "gpus: unknown key; did you mean resources.gpus?"),
        ({"retry": {"timeout": "1h"}}, "retry.timeout: unknown key; did you mean timeout?"),
        ({"checkpoint": {"zzz": 1}}, "checkpoint.zzz: unknown key; known here: signal, grace"),
        (
            {"mounts": [{"volume": "a", "path": "/a"}, {"volume": "b", "path": "/b", "pth": ""}]},
            "mounts[1].pth: unknown key; did you mean mounts[1].path?",
        ),
        (
            {"depends_on": [{"task": "b", "conditon": "failed"}]},
            "depends_on[0].conditon: unknown key; did you mean depends_on[0].condition?",
        ),
        ({"{said}": 1}, "{said}: unknown key; known here: " + ", ".join(TaskSpec.model_fields)),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(fields: Document, line: str) -> None:
    assert mistakes(small(**fields)) == [line]


def test_all_mistakes_are_told_at_once() -> None:
    told = mistakes(
        {
            "nam": "x",
            "resources": {"gpu": 1, "memory": "32", "shm": "9ZB", "cpus": "8"},
            "env": {"1A": "x", "B": 3},
            "retry": {"on": ["panic"], "max": 101},
            "timeout": "soon",
            "array": "0-10000",
        }
    )
    assert [line.split(":")[0] for line in told] == [
        "name", "image", "resources.cpus", "resources.memory", "resources.shm", "resources.gpu", "env.1A", "env.B",
        "command", "retry.max", "retry.on[0]", "timeout", "array", "nam",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Train"}, "name: String should match pattern"),
        ({"name": "a" * 64}, "name: String should match pattern"),
        ({"command": " \n"}, "command: String should match pattern"),
        ({"command": "a\0"}, "command: must not contain a NUL"),
        ({"nodes": 65}, "nodes: Input should be less than or equal to 64"),
        ({"nodes": "2"}, "nodes: Input should be a valid integer"),
        ({"nodes": True}, "nodes: Input should be a valid integer"),
        ({"preemptible": "yes"}, "preemptible: Input should be a valid boolean"),
        ({"priority": 1001}, "priority: Input should be less than or equal to 1000"),
        ({"resources": {"gpus": -1}}, "resources.gpus: Input should be greater than or equal to 0"),
        (
            {"resources": {"gpus": 0, "gpu_model": "A100"}},
            "resources.gpu_model: there is no GPU (`gpus` is 0) that could",
        ),
        ({"resources": {"gpus": 65}}, "resources.gpus: Input should be less than or equal to 64"),
        ({"resources": {"gpus": 1.5}}, "resources.gpus: 1.5: write a whole number of GPUs, or a share"),
        ({"resources": {"gpus": 0.0001}}, "resources.gpus: 0.0001 is finer than a thousandth"),
        ({"resources": {"gpus": float("nan")}}, "resources.gpus: Input should be "),
        ({"resources": {"gpus": True}}, "resources.gpus: Input should be a valid number"),
        ({"resources": {"cpus": 0.05}}, "resources.cpus: Input should be greater than or equal to 0.1"),
        ({"resources": {"memory": "1MB"}}, "resources.memory: '1MB' is 1000000 bytes; it has to be from 268435456"),
        ({"resources": {"memory": "2000TB"}}, "resources.memory: '2000TB' is"),
        ({"resources": {"memory": 32}}, "resources.memory: a number or boolean is no text; write it in quotes"),
        ({"resources": {"memory": "1GB", "shm": "1GiB"}}, "resources.shm: 1GiB is more than the memory, 1GB,"),
        ({"resources": {"labels": {"a b": "c"}}}, "resources.labels.a b: String should match"),
        ({"resources": {"gpu_model": ["A!"]}}, "resources.gpu_model[0]: String should match"),
        ({"disconnect": "2d"}, "disconnect: '2d' is 172800 s; it has to be from 1 s to 86400 s"),
        ({"timeout": "0s"}, "timeout: '0s' is 0 s; it has to be from 1 s"),
        ({"timeout": 90}, "timeout: a number or boolean is no text; write it in quotes"),
        ({"checkpoint": {"grace": "2h"}}, "checkpoint.grace: '2h' is 7200 s"),
        ({"checkpoint": {"signal": "SIGKILL"}}, "checkpoint.signal: Input should be 'SIGTERM'"),
        ({"retry": {True: ["error"]}}, "retry: a key is true or false: YAML 1.1 reads a bare `on`"),
        ({"retry": {3: 1}}, "retry: Keys should be strings"),
        ({"env": {"A-B": ""}}, "env.A-B: String should match pattern"),
        ({"env": {"REMOTEGPU_TOKEN": ""}}, "env.REMOTEGPU_TOKEN: 'REMOTEGPU_TOKEN': names that begin with"),
        ({"env": {"A": True}}, "env.A: a number or boolean is no text; write it in quotes"),
        ({"env": {"A": "\0"}}, "env.A: must not contain a NUL"),
        ({"env": {"A": "\ud800"}}, "env.A: Input should be a valid string"),
        ({"env": {f"A{n}": "x" * 30_000 for n in range(10)}}, "env: 300020 bytes in all; a process takes 262144"),
        ({"secrets": ["A", "A"]}, "secrets: 'A' is named twice"),
        ({"secrets": ["A"], "env": {"A": ""}}, "secrets: 'A' is in `env` as well"),
        ({"mounts": [{"volume": "a", "path": "data"}]}, "mounts[0].path: String should match pattern"),
        ({"mounts": [{"volume": "a", "path": "/data/../etc"}]}, "mounts[0].path: '/data/../etc': write an absolute"),
        ({"mounts": [{"volume": "a", "path": "/proc/self"}]}, "mounts[0].path: '/proc/self': nothing can be mounted"),
        ({"mounts": [{"volume": v, "path": "/a"} for v in "ab"]}, "mounts: two volumes are mounted at /a"),
        ({"depends_on": ["a", {"task": "a"}]}, "depends_on: 'a' is named twice"),
        ({"depends_on": ["small"]}, "depends_on: 'small' can't wait for itself"),
        ({"depends_on": [3]}, "depends_on[0]: Input should be a valid dictionary"),
        ({"array": 3}, "array: a number or boolean is no text; write it in quotes"),
        ({"array": "0-10000"}, "array: '0-10000' has 10001 elements"),
        ({"ray": True, "env": {"RAY_ADDRESS": "auto"}}, "env: with `ray` the platform sets RAY_ADDRESS"),
        ({"ray": True, "secrets": ["RAY_AUTH_TOKEN"]}, "secrets: with `ray` the platform sets RAY_AUTH_TOKEN"),
    ],
)
def test_what_is_refused(fields: Document, said: str) -> None:
    (line,) = mistakes(small(**fields))
    assert line.startswith(said)


def test_what_is_no_mapping() -> None:
    assert mistakes([]) == ["task: Input should be a valid dictionary or instance of TaskSpec"]
