"""The commands about tasks: what they send, print and exit with."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from api.tasks.spec import TaskSpec
from remotegpu.cli import app
from remotegpu.cli.task_options import Described
from tests.unit.task_platform import WAIT, TaskPlatform, attempt, served, written

Run = Callable[..., Any]  # Any: a result of click's, which some versions of typer have a copy of
RUNNING = {"state": "running", "attempts": 1}
OUTPUT = written(("stdout", "10%\r"), ("stderr", "warning\n"), 7, ("stdout", "100%\rdone\n"))
DEVICE = {"uuid": "GPU-1", "model": "A100", "milli": 1000, "simulated": True}


@pytest.fixture
def platform() -> TaskPlatform:
    return TaskPlatform()


@pytest.fixture
def address(platform: TaskPlatform) -> Iterator[str]:
    with served(platform) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def run(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("REMOTEGPU_API_KEY", "good")
    monkeypatch.setenv("REMOTEGPU_PROFILE", str(tmp_path / "none.json"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str, given: str | None = None) -> Any:
        return CliRunner().invoke(app, ["--address", address, *words], input=given)

    return invoke


def failed(code: int | None, end: str = "exited", **values: Any) -> dict[str, Any]:
    return {"state": "failed", "attempts": 1, "attempt_list": [attempt(1, end, exit_code=code, **values)]}


def test_run_follows_a_file_to_its_end(run: Run, platform: TaskPlatform) -> None:
    Path("src").mkdir()
    Path("src/train.py").write_text("print(1)")
    document = {"name": "train", "image": "base", "working_dir": "src", "retry": {"on": ["error"]}, "command": "x"}
    Path("train.yaml").write_text(yaml.safe_dump(document).replace("'on'", "on"))
    platform.add("train", {"wait": WAIT}, {"wait": WAIT}, RUNNING, failed(3))
    platform.output[1] = OUTPUT
    result = run("run", "train.yaml")
    assert (result.exit_code, result.stdout) == (3, "10%\r100%\rdone\n")
    assert result.stderr.splitlines() == [
        "train: queued, No host has 2 free GPUs. (place 3 in the queue) When it starts is unknown.",
        "train: running",
        "warning",
        "[7 bytes dropped]",
        "train: failed",
    ]
    assert platform.bodies == [
        {"workspace": None, "tasks": [{"task": document, "working_dir": next(iter(platform.uploads))}]}
    ]


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ({"state": "succeeded", "attempts": 1}, 0),
        (failed(7), 7),
        (failed(None, signal=9), 137),
        (failed(None, "image_missing"), 1),
        ({"state": "timed_out", "attempts": 1, "attempt_list": [attempt(1, "timed_out", exit_code=143)]}, 124),
        ({"state": "cancelled"}, 1),
    ],
)
def test_run_and_wait_exit_as_the_task_did(run: Run, platform: TaskPlatform, last: dict[str, Any], code: int) -> None:
    platform.add("a", last)
    platform.output[1] = []
    assert run("run", "--name", "a", "--", "true").exit_code == code
    assert run("task", "wait", "a").exit_code == code


def test_run_of_a_command_sends_its_words_as_they_are(run: Run, platform: TaskPlatform) -> None:
    words = ["python", "-c", "print('a b', $HOME)", "--gpus", "9", "--", "é"]
    result = run(
        "run", "--gpus", "0.5", "--gpu-model", "A100,H100", "--env", "A=b=c", "--secret", "KEY", "-d", "--", *words
    )
    assert result.exit_code == 0, result.output
    (sent,) = platform.bodies[0]["tasks"]
    assert shlex.split(sent["task"]["command"]) == words
    assert sent["task"]["resources"] == {"gpus": 0.5, "gpu_model": ["A100", "H100"]}
    assert (sent["task"]["env"], sent["task"]["secrets"]) == ({"A": "b=c"}, ["KEY"])
    assert result.stdout.strip() in platform.steps, "the id alone"
    TaskSpec.model_validate(sent["task"])


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=5))
def test_a_shell_reads_the_same_words(words: list[str]) -> None:
    none: dict[str, Any] = dict.fromkeys(Described.__dataclass_fields__)
    document = Described(**{**none, "image": "base", "gpus": "1"}).document(words)
    assert shlex.split(document["command"]) == words


def test_every_option_is_one_of_the_document(run: Run, platform: TaskPlatform) -> None:
    options = (
        "--name x --image base --gpus 2 --gpu-model A100 --cpus 4 --memory 32GB --shm 8GiB --nodes 2 --ray --env A=1 "
        "--secret K --mount data:/data --setup true --priority 5 --preemptible --timeout 1h --array 0-9%2 "
        "--depends-on y --workspace w"
    )
    assert run("run", "-d", *options.split(), "--", "true").exit_code == 0
    (body,) = platform.bodies
    document = body["tasks"][0]["task"]
    spec = TaskSpec.model_validate(document)
    assert body["workspace"] == "w" and spec.mounts[0].path == "/data" and spec.depends_on[0].task == "y"
    assert set(TaskSpec.model_fields) - set(document) == {"working_dir", "disconnect", "retry", "checkpoint"}


def test_a_dry_run_tells_and_leaves_nothing(run: Run, platform: TaskPlatform) -> None:
    Path("x.py").write_text("1")
    result = run("run", "--dry-run", "--name", "a", "--working-dir", ".", "--timeout", "6h", "--", "python", "x.py")
    said = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    said = {title: value.strip() for title, value in said.items()}
    assert said == {
        "task": "a", "working directory": "1 files, 0.0 MiB", "starts": "now", "quota and balance": "allow it",
        "cost at most": "15.00 EUR",
    }  # fmt: skip
    assert platform.uploads == {} and platform.steps == {}


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_mistakes_are_told_with_file_and_line(run: Run, platform: TaskPlatform, more: tuple[str, ...]) -> None:
    Path("a.yaml").write_text("name: a\n---\nname: b\nresources:\n  gpu: 2\nmounts:\n  - volume: x\n")
    errors = [
        {"loc": ["body", "tasks", "1", "task", "resources", "gpu"], "message": "did you mean resources.gpus?"},
        {"loc": ["body", "tasks", "1", "task", "mounts", "0", "path"], "message": "Field required"},
        {"loc": ["body", "tasks", "0", "task", "command"], "message": "Field required"},
    ]
    platform.refusal = {"code": "validation", "detail": "x", "errors": errors}
    result = run("run", *more, "a.yaml")
    assert (result.exit_code, result.stderr.splitlines()) == (
        5,
        [
            "error: a.yaml:5: resources.gpu: did you mean resources.gpus?",
            "error: a.yaml:7: mounts[0].path: Field required",
            "error: a.yaml:1: command: Field required",
        ],
    )


def test_other_refusals_are_told_as_they_are(run: Run, platform: TaskPlatform) -> None:
    platform.refusal = {"code": "dependency_cycle", "detail": "They wait for each other: [a -> b]."}
    result = run("run", "-d", "--", "true")
    assert (result.exit_code, "They wait for each other: [a -> b]." in result.stderr) == (5, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "give a file, or a command"),
        (["run", "a.yaml", "--", "true"], "not both"),
        (["run", "--gpus", "2", "--name", "x", "a.yaml"], "belongs in it: --name, --gpus"),
        (["run", "--env", "A", "--", "true"], "--env NAME=VALUE"),
        (["run", "--gpus", "many", "--", "true"], "no number of GPUs"),
        (["run", "missing.yaml"], "missing.yaml: No such file"),
        (["run", "twice.yaml"], "twice.yaml:2: the key 'name' is there already, in line 1"),
        (["task", "logs", "--stdout", "--stderr", "a"], "give --stdout or --stderr"),
    ],
)
def test_wrong_usage_sends_nothing(run: Run, platform: TaskPlatform, words: list[str], said: str) -> None:
    Path("twice.yaml").write_text("name: a\nname: b\n")
    result = run(*words)
    told = " ".join(result.stderr.replace("│", " ").split())
    assert (result.exit_code, said in told, platform.asked) == (2, True, []), told


def test_a_folder_that_can_not_be_sent_is_told_with_its_line(run: Run, platform: TaskPlatform) -> None:
    Path("a.yaml").write_text("name: a\nworking_dir: gone\n")
    result = run("run", "a.yaml")
    assert (result.exit_code, "a.yaml:2: gone is no folder" in result.stderr, platform.bodies) == (1, True, [])


def test_several_tasks_are_one_submission_and_followed_in_order(run: Run, platform: TaskPlatform) -> None:
    Path("a.yaml").write_text("name: first\n---\nname: second\n")
    Path("b.yaml").write_text("name: third\n")
    platform.output[1] = written(("stdout", "x\n"))
    platform.add("second", failed(4))
    result = run("run", "a.yaml", "b.yaml")
    assert [[each["task"]["name"] for each in body["tasks"]] for body in platform.bodies] == [
        ["first", "second", "third"]
    ]
    assert result.stderr.splitlines() == ["first: succeeded", "second: failed", "third: succeeded"]
    assert (result.exit_code, result.stdout) == (4, "x\nx\nx\n")


def test_run_with_json_waits_and_prints_the_tasks(run: Run, platform: TaskPlatform) -> None:
    platform.add("a", {}, {}, failed(2))
    result = run("run", "--json", "--name", "a", "--", "true")
    (told,) = json.loads(result.stdout)
    assert (result.exit_code, told["state"], told["attempt_list"][0]["exit_code"]) == (2, "failed", 2)


def test_interrupting_leaves_the_task_running(address: str, platform: TaskPlatform, tmp_path: Path) -> None:
    task_id = platform.add("a", RUNNING)
    platform.output[1] = written(("stdout", "hello\n"))
    platform.held.clear()
    environment = {**os.environ, "REMOTEGPU_API_KEY": "good", "REMOTEGPU_PROFILE": str(tmp_path / "none")}
    main = [sys.executable, "-c", "from remotegpu.cli import main; main()"]
    command = [*main, "--address", address, "run", "--name", "a", "--", "true"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"hello\n"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(20) == 130
    assert f"remotegpu task logs -f {task_id}" in said and f"remotegpu task cancel {task_id}" in said
    assert not any("cancel" in path for _, path in platform.asked)


def test_list_and_show_tell_why_and_how_far(run: Run, platform: TaskPlatform) -> None:
    platform.add("waits", {"wait": WAIT})
    platform.add("works", {**RUNNING, "progress": {"fraction": 0.25, "line": "[/b] epoch 3"}})
    ended = attempt(1, "preempted", devices=[DEVICE], started_at="2026-01-01T12:00:00Z", notice="Told in time.")
    dependency = {"task_id": "x", "name": "prepare", "condition": "succeeded", "state": "succeeded"}
    platform.add("ends", {**failed(1), "attempt_list": [ended, attempt(2, "exited", exit_code=1)],
                          "dependencies": [dependency], "spec": {"command": "python x.py"}})  # fmt: skip
    lines = run("task", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "ends", "works", "waits"]
    assert "25%, [/b] epoch 3" in lines[2] and "No host has 2 free GPUs. (place 3 in the queue)" in lines[3]
    assert run("task", "list", "--state", "running").stdout.count("\n") == 2
    shown = run("task", "show", "ends").stdout
    assert all(
        part in shown for part in ("python x.py", "prepare (succeeded): succeeded", "sim-1", "exited, exit code 1")
    )
    assert "1 x A100 (simulated)" in shown and "preempted, Told in time." in shown
    assert json.loads(run("task", "show", "--json", "ends").stdout)["attempt_list"][0]["end"] == "preempted"
    assert run("task", "show", "nothing").exit_code == 4


def test_logs_are_printed_as_they_were_written(run: Run, platform: TaskPlatform) -> None:
    platform.add("a", failed(1))
    platform.output[1] = OUTPUT
    whole = run("task", "logs", "a")
    assert (whole.stdout, whole.stderr) == ("10%\r100%\rdone\n", "warning\n[7 bytes dropped]\n")
    assert run("task", "logs", "-f", "a").stdout == whole.stdout
    only = run("task", "logs", "--stderr", "--since-position", "4", "--attempt", "1", "a")
    assert (only.stdout, only.stderr) == ("", "warning\n[7 bytes dropped]\n")
    stamped = run("task", "logs", "--timestamps", "--stdout", "a").stdout
    assert stamped == "2026-01-01T12:00:00.000+00:00 10%\r100%\rdone\n", "one line, that draws over itself"
    records = [json.loads(line) for line in run("task", "logs", "--json", "a").stdout.splitlines()]
    assert [record["position"] for record in records] == [0, 4, 12, 19]


def test_cancel_and_retry_say_what_is_now(run: Run, platform: TaskPlatform) -> None:
    platform.add("a", {"state": "cancelled", "detail": "It was cancelled."})
    platform.add("b")
    assert run("task", "cancel", "a", "b").stdout == "a: cancelled, It was cancelled.\nb: queued\n"
    assert run("task", "retry", "b").stdout == "b: queued\n"
    assert [path.rsplit("/", 1)[1] for method, path in platform.asked if method == "POST"] == [
        "cancel",
        "cancel",
        "retry",
    ]


def test_secrets_come_from_standard_input_alone(run: Run, platform: TaskPlatform) -> None:
    assert run("secret", "set", "KEY", "--workspace", "w", given="v a\nl\n").exit_code == 0
    assert platform.secrets == {"KEY": "v a\nl"} and platform.asked[-1][1].endswith("/workspaces/w/secrets/KEY")
    assert run("secret", "set", "KEY", "value", given="x").exit_code == 2, "an argument can be read by everyone"
    assert "KEY" in run("secret", "list").stdout
    assert platform.asked[-1][1] == "/api/v1/customer/workspaces/the lab/secrets", "the default one's"
    assert run("secret", "rm", "KEY").exit_code == 0 and platform.secrets == {}


def test_volumes_are_made_listed_and_deleted(run: Run, platform: TaskPlatform) -> None:
    assert run("volume", "create", "data", "--size", "50GB").exit_code == 0
    assert platform.volumes[0]["size_bytes"] == 50 * 10**9
    assert "46.6 GiB" in run("volume", "list").stdout
    assert run("volume", "rm", "data", given="n\n").exit_code == 1 and platform.volumes
    assert run("volume", "rm", "data", "--yes").exit_code == 0 and not platform.volumes


def test_an_array_shows_counts_failures_and_the_output_of_an_element(run: Run, platform: TaskPlatform) -> None:
    counts = {"total": 9, "pending": 3, "running": 0, "succeeded": 4, "failed": 2}
    platform.add("a", {**RUNNING, "elements": counts})
    ended = {"index": 3, "state": "succeeded", "attempt": 2, "tries": 1, "end": "exited", "exit_code": 0}
    failures = [{**ended, "index": n, "state": "failed", "exit_code": None, "signal": 9} for n in (5, 7)]
    platform.elements += [ended, *failures]
    platform.output[2] = written(("stdout", "seven\n"))
    shown = run("task", "show", "a").stdout
    assert "9: 4 succeeded, 2 failed, 3 pending" in shown
    assert shown.count("exited, SIGKILL") == 2
    listed = json.loads(run("task", "elements", "a", "--state", "failed", "--json").stdout)
    assert [each["index"] for each in listed] == [5, 7]
    assert "exit code 0" in run("task", "elements", "a").stdout
    assert run("task", "logs", "a", "--element", "7").stdout == "seven\n"
    assert run("task", "logs", "a", "--element", "7", "--rank", "1").exit_code == 2


def test_an_element_is_followed_over_tries_and_broken_connections(run: Run, platform: TaskPlatform) -> None:
    platform.add("a", {**RUNNING, "attempts": 2})
    platform.output[2] = written(("stdout", "seven\n"), ("stdout", "more\n"), ("stdout", "end\n"))
    platform.breaks = [1, 1]
    followed = run("task", "logs", "a", "-f", "--element", "7")
    assert (followed.stdout, followed.exit_code) == ("seven\nmore\nend\n", 0)
    asked = [parse_qs(query) for method, query in platform.asked if method == "WS"]
    assert [each.get("attempt") for each in asked] == [None, ["2"], ["2"]], "it goes on in the try that it was in"
    assert [each["position"] for each in asked] == [["0"], ["6"], ["11"]]
    assert all(each["element"] == ["7"] for each in asked)
