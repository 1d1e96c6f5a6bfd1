"""Tasks from submission to bill, as a person runs them: `remotegpu run`, real containers, the unmodified clients."""

import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Customer
from tests.waiting import wait_for

Json = dict[str, Any]
_SMALL = ("--gpus", "1", "--gpu-model", "A100", "--cpus", "0.5", "--memory", "1GiB")
_SETTLED_S = 30


@pytest.fixture(scope="module")
def customer(lovelace: Customer) -> Customer:
    return lovelace


def run(customer: Customer, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return customer.owner.run("run", *arguments, check=check)


def show(customer: Customer, name: str) -> Json:
    task: Json = customer.owner.json("task", "show", name)
    return task


def in_state(customer: Customer, name: str, *states: str, timeout_s: float = 60) -> Json:
    def reached() -> Json | None:
        task = show(customer, name)
        return task if task["state"] in states else None

    return wait_for(reached, timeout_s=timeout_s, what=f"{name} in {' or '.join(states)}")


def shell(name: str, script: str, *options: str) -> tuple[str, ...]:
    return ("--name", name, *_SMALL, *options, "--", "sh", "-c", script)


def test_a_command_runs_and_its_output_and_exit_code_come_back(customer: Customer) -> None:
    done = run(customer, *shell("hello", "echo out; echo err >&2; echo $TASK_NAME $ATTEMPT; exit 0"))
    assert done.stdout.splitlines() == ["out", "hello 1"]
    assert "err" in done.stderr.splitlines()
    task = show(customer, "hello")
    assert (task["state"], task["exit_code"]) == ("succeeded", 0)
    (attempt,) = task["attempt_list"]
    assert (attempt["state"], attempt["end"], attempt["exit_code"]) == ("ended", "exited", 0)
    assert attempt["host"] and len(attempt["devices"]) == 1

    failed = run(customer, *shell("fails", "exit 7"), check=False)
    assert failed.returncode == 7
    assert show(customer, "fails")["state"] == "failed"


def test_it_is_billed_for_what_is_proven_and_its_gpus_are_free_again(customer: Customer) -> None:
    run(customer, *shell("billed", "sleep 3"))

    def settled() -> bool:
        return bool(customer.owner.json("bill")["balance"]["held_micro"] == 0)

    wait_for(settled, timeout_s=_SETTLED_S, every_s=0.5, what="the hold to be settled")
    used = [u for u in customer.owner.json("usage") if u["task"] == "billed"]
    assert 3000 <= sum(u["duration_ms"] for u in used) < 8000
    assert sum(u["amount_micro"] for u in used) == sum(u["duration_ms"] for u in used) * 1000, "a unit for each second"


@pytest.mark.parametrize(
    ("name", "options", "script", "state", "end"),
    [
        ("too-long", ("--timeout", "1s"), "sleep 60", "timed_out", "timed_out"),
        ("too-much", (), "head -c 2G /dev/zero | tail", "failed", "out_of_memory"),
        ("no-setup", ("--setup", "exit 3"), "true", "failed", "setup_failed"),
        ("killed", (), "kill -KILL $$", "failed", "exited"),
    ],
)
def test_ends_are_told_apart(
    customer: Customer, name: str, options: tuple[str, ...], script: str, state: str, end: str
) -> None:
    run(customer, *shell(name, script, *options), check=False)
    task = show(customer, name)
    assert (task["state"], task["attempt_list"][-1]["end"]) == (state, end), task


def test_a_task_is_cancelled_in_order(customer: Customer) -> None:
    run(customer, "--detach", *shell("endless", "trap 'echo told; exit 0' TERM; echo up; sleep 600 & wait"))
    wait_for(lambda: "up" in customer.owner.run("task", "logs", "endless").stdout, timeout_s=60, what="its output")
    customer.owner.run("task", "cancel", "endless")
    task = in_state(customer, "endless", "cancelled")
    assert task["attempt_list"][-1]["end"] == "cancelled"
    assert "told" in customer.owner.run("task", "logs", "endless").stdout


def test_a_folder_is_taken_along_without_what_is_ignored(customer: Customer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "train.py").write_text("import pathlib; print(sorted(map(str, pathlib.Path().rglob('*'))))\n")
    (tmp_path / "data" / "x.txt").write_text("x")
    (tmp_path / "junk.log").write_text("never")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "task.yaml").write_text(
        textwrap.dedent("""\
            name: folder
            image: base
            resources: {gpus: 1, cpus: 0.5, memory: 1GiB}
            working_dir: .
            env: {EPOCHS: "3"}
            setup: test -f train.py && echo set up > made
            command: python3 train.py; echo $EPOCHS
            """)
    )
    done = run(customer, str(tmp_path / "task.yaml"))
    listed, epochs = done.stdout.splitlines()[-2:]
    assert "junk.log" not in listed
    assert all(f"'{name}'" in listed for name in ("data/x.txt", "train.py", "made"))
    assert epochs == "3"


def test_secrets_are_given_and_masked(customer: Customer) -> None:
    customer.owner.run("secret", "set", "API_TOKEN", stdin="hunter2-hunter2\n")
    script = 'test "$API_TOKEN" = hunter2-hunter2 && echo "it is $API_TOKEN"; cat $REMOTEGPU_SECRETS_DIR/API_TOKEN'
    done = run(customer, *shell("secretive", script, "--secret", "API_TOKEN"))
    assert "hunter2" not in done.stdout
    assert "it is ***" in done.stdout


def test_children_follow_their_parents(customer: Customer, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        textwrap.dedent("""\
            name: parent
            image: base
            resources: {gpus: 1, cpus: 0.5, memory: 1GiB}
            command: exit 1
            ---
            name: child
            image: base
            resources: {gpus: 1, cpus: 0.5, memory: 1GiB}
            command: "true"
            depends_on: [parent]
            """)
    )
    run(customer, "--detach", str(tmp_path / "two.yaml"))
    task = in_state(customer, "child", "cancelled")
    assert "dependency" in task["detail"] and task["attempt_list"] == []


def test_what_is_preempted_is_told_in_time_and_comes_back(customer: Customer) -> None:
    """Every GPU is taken by preemptible tasks; what is told writes its checkpoint and ends the grace early."""
    script = textwrap.dedent("""\
        trap 'cp $REMOTEGPU_NOTICE_FILE /data/notice; echo saved > /data/checkpoint; \
              python3 -c "import os, urllib.request as u; u.urlopen(os.environ[\\"REMOTEGPU_ENDPOINT\\"] + \\"/checkpoint\\", data=b\\"{}\\")"; \
              exit 0' TERM
        test -f /data/checkpoint && { echo again $ATTEMPT; exit 0; }
        echo up; sleep 600 & wait
        """)  # noqa: E501
    customer.owner.run("volume", "create", "checkpoints", "--size", "1GiB")
    four = ("--gpus", "4", "--gpu-model", "A100", "--cpus", "0.5", "--memory", "1GiB", "--preemptible")
    run(
        customer, "--detach", "--name", "spot", *four, "--mount", "checkpoints:/data", "--", "bash", "-c", script,
    )  # fmt: skip
    run(customer, "--detach", "--name", "spot-2", *four, "--", "sleep", "600")
    wait_for(lambda: "up" in customer.owner.run("task", "logs", "spot").stdout, timeout_s=60, what="its output")
    in_state(customer, "spot-2", "running")
    customer.owner.run("task", "cancel", "spot-2")
    in_state(customer, "spot-2", "cancelled")
    run(customer, "--detach", "--name", "wide", *four[:-1], "--", "sleep", "600")
    in_state(customer, "wide", "running")
    run(customer, *shell("urgent", "true", "--priority", "100"))
    task = in_state(customer, "spot", "succeeded", timeout_s=90)
    assert [attempt["end"] for attempt in task["attempt_list"]] == ["preempted", "exited"]
    assert task["attempt_list"][0]["notice"]
    assert "again 2" in customer.owner.run("task", "logs", "spot").stdout
    customer.owner.run("task", "cancel", "wide")


def test_an_array_runs_its_elements_each_with_output_of_its_own(customer: Customer) -> None:
    """Two at once; one fails, and one is followed from before it begins, while it writes."""
    slow = "sleep 5; echo on; sleep 5; echo end"
    script = f"echo begin $TASK_INDEX; [ $TASK_INDEX != 5 ] || {{ {slow}; }}; [ $TASK_INDEX != 3 ]"
    run(customer, "--detach", *shell("sweep", script, "--array", "0-7%2"))
    with customer.owner.begin("task", "logs", "sweep", "-f", "--element", "5") as following:
        assert following.stdout is not None
        assert [next(following.stdout) for _ in range(2)] == ["begin 5\n", "on\n"]
        assert show(customer, "sweep")["state"] == "running"
        (running,) = customer.owner.json("task", "elements", "sweep", "--state", "running")
        assert running["index"] == 5
        assert following.stdout.read() == "end\n"
    assert following.returncode == 0
    task = in_state(customer, "sweep", "failed")
    assert task["elements"] == {"total": 8, "pending": 0, "running": 0, "succeeded": 7, "failed": 1}
    assert "1 of 8 elements failed" in task["detail"]
    rows = customer.owner.json("task", "elements", "sweep")
    assert [(row["index"], row["state"], row["exit_code"]) for row in rows] == [
        (index, "failed" if index == 3 else "succeeded", int(index == 3)) for index in range(8)
    ]
    for index in range(8):
        output = customer.owner.run("task", "logs", "sweep", "--element", str(index)).stdout
        assert output == f"begin {index}\n" + ("on\nend\n" if index == 5 else "")
    assert 1 <= len(task["attempt_list"]) <= 2, "they share the containers of at most two workers"


def test_a_dry_run_says_what_it_would_cost(customer: Customer) -> None:
    done = run(customer, "--dry-run", "--json", *_SMALL, "--timeout", "1h", "--", "true")
    (plan,) = json.loads(done.stdout)
    assert plan["ceiling_micro"] == 3600 * 1_000_000


def test_mistakes_are_told_with_their_line(customer: Customer, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\nimage: base\ncomand: true\nresources: {gpus: 1.5}\n")
    done = run(customer, str(tmp_path / "bad.yaml"), check=False)
    assert done.returncode != 0
    assert "bad.yaml:3" in done.stderr and "command" in done.stderr
    assert "bad.yaml:4" in done.stderr


def test_long_output_is_whole_and_can_be_read_from_anywhere(customer: Customer) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    done = run(customer, *shell("wordy", script))
    assert done.stdout.splitlines() == [f"line {number}" for number in range(20000)]
    records = [json.loads(line) for line in customer.owner.run("task", "logs", "wordy", "--json").stdout.splitlines()]
    middle = records[len(records) // 2]
    rest = customer.owner.run("task", "logs", "wordy", "--since-position", str(middle["position"])).stdout
    assert done.stdout.endswith(rest) and rest
