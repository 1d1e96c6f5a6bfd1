"""The output of several nodes as the commands print it."""

import json

import pytest

from remotegpu.cli.node_output import NodeLines
from remotegpu.models import LogRecord
from tests.unit.task_platform import TaskPlatform, attempt, written
from tests.unit.test_client_tasks_commands import Run, address, platform, run

__all__ = ["address", "platform", "run"]  # fixtures

DONE = {"state": "succeeded", "attempts": 1, "nodes": 3, "attempt_list": [attempt(1, "exited", exit_code=0)]}


@pytest.fixture
def gang(platform: TaskPlatform) -> TaskPlatform:
    platform.add("gang", {"nodes": 3}, {"state": "running", "attempts": 1, "nodes": 3}, DONE)
    platform.output[1] = written(("stdout", "10%\r"), ("stdout", "100%\rdone\n"))
    platform.others[1] = written(("stdout", "a\nb"), ("stderr", "oh\n"), ("stdout", "c\n"), 3)
    platform.others[2] = written(("stdout", "unended"))
    return platform


@pytest.mark.parametrize("words", [("run", "--name", "gang", "--", "true"), ("task", "logs", "-f", "gang")])
def test_all_nodes_are_followed_and_the_others_say_who_they_are(
    run: Run, gang: TaskPlatform, words: tuple[str, ...]
) -> None:
    result = run(*words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines(keepends=True)
    assert {"[node 1] a\n", "[node 1] bc\n", "[node 2] unended\n"} < set(lines)
    assert "".join(line for line in lines if "[node" not in line).replace("\n", "") == "10%\r100%\rdone"
    assert "[node 1] oh\n" in result.stderr and "[3 bytes dropped]" in result.stderr


def test_one_node_alone_is_as_it_was_written(run: Run, gang: TaskPlatform) -> None:
    for follow in ((), ("-f",)):
        result = run("task", "logs", *follow, "gang", "--rank", "1")
        assert (result.exit_code, result.stdout) == (0, "a\nbc\n")
    assert run("task", "logs", "gang", "--since-position", "4").stdout == "100%\rdone\n"


def test_what_is_there_comes_node_by_node(run: Run, gang: TaskPlatform) -> None:
    assert run("task", "logs", "gang").stdout == "10%\r100%\rdone\n[node 1] a\n[node 1] bc\n[node 2] unended\n"
    lines = [json.loads(line) for line in run("task", "logs", "gang", "--json", "--stdout").stdout.splitlines()]
    assert [(line["rank"], line["text"]) for line in lines if line["text"]] == [
        (0, "10%\r"), (0, "100%\rdone\n"), (1, "a\nb"), (1, "c\n"), (2, "unended"),
    ]  # fmt: skip


def test_a_node_that_can_not_be_followed_is_told(run: Run, gang: TaskPlatform) -> None:
    gang.breaks.extend([0, 0, 0])
    gang.breaks_with = 1012
    result = run("task", "logs", "-f", "gang")  # each is connected again
    assert result.exit_code == 0 and "[node 1] bc\n" in result.stdout


def test_a_line_without_end_is_written_in_parts() -> None:
    lines = NodeLines()
    said = [
        each.text or "" for _ in range(40) for each in lines.take(1, LogRecord(0, stream="stdout", text="x" * 4096))
    ]
    assert len(said) == 2 and all(text.startswith("[node 1] x") and text.endswith("x\n") for text in said)
