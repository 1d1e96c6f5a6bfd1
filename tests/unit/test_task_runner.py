"""The runner of tasks as a process: exit codes, signals, time, notices, and the endpoint. No container is needed."""

import json
import signal
import stat
import time
import zipfile
from pathlib import Path

import pytest

from tests.unit.task_runner_process import Runner
from tests.waiting import wait_for

PRINT_ENDPOINT = "echo $REMOTEGPU_ENDPOINT; "


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("exit 0", 0, (0, None)),
        ("exit 7", 7, (7, None)),
        ("kill -KILL $$", 137, (None, 9)),
        ("exit 137", 137, (137, None)),
        ("kill -SEGV $$", 139, (None, 11)),
    ],
)
def test_exit_codes_and_signals_are_told_apart(
    tmp_path: Path, command: str, code: int, told: tuple[int | None, int | None]
) -> None:
    runner = Runner(tmp_path, command)
    assert runner.run() == code
    status = runner.status
    assert (status["phase"], status["end"]) == ("ended", "exited")
    assert (status["exit_code"], status["signal"]) == told
    assert status["running_at_ms"] <= status["ended_at_ms"]


def test_streams_are_kept_apart_with_positions_and_carriage_returns(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "printf '10%%\\r20%%\\r'; sleep 0.1; printf 'oops' >&2; sleep 0.1; printf end")
    assert runner.run() == 0
    assert runner.records() == [(1, 0, b"10%\r20%\r"), (2, 8, b"oops"), (1, 12, b"end")]


def test_variables_of_order_secrets_and_runner(tmp_path: Path) -> None:
    command = 'echo "$A $B $TOKEN"; cat $REMOTEGPU_SECRETS_DIR/TOKEN | wc -c; basename $REMOTEGPU_NOTICE_FILE'
    runner = Runner(tmp_path, command, secrets={"TOKEN": "hush-hush"}, environment={"A": "1", "B": "x y"})
    assert runner.run() == 0
    assert runner.output() == b"1 x y ***\n9\nnotice.json\n"


def test_a_second_start_runs_nothing(tmp_path: Path) -> None:
    runner = Runner(tmp_path, f"echo once >> {tmp_path}/ran")
    assert runner.run() == 0
    before = runner.status
    assert runner.run() == 125
    assert (tmp_path / "ran").read_text() == "once\n" and runner.status == before


def test_setup_runs_first_and_its_failure_is_its_own_end(tmp_path: Path) -> None:
    failing = Runner(tmp_path / "a", "echo never", setup="echo setting up; exit 3")
    assert failing.run() == 3
    assert (failing.status["end"], failing.status["exit_code"]) == ("setup_failed", 3)
    assert failing.output() == b"setting up\n" and "running_at_ms" not in failing.status
    working = Runner(tmp_path / "b", "echo command", setup="echo setup")
    assert working.run() == 0
    assert working.output() == b"setup\ncommand\n"


def test_a_timeout_sends_sigterm_and_says_so(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "trap 'echo told; exit 5' TERM; while :; do sleep 0.05; done", timeout_s=0.5)
    assert runner.run() == 5
    assert (runner.status["end"], runner.status["exit_code"]) == ("timed_out", 5)
    assert runner.output() == b"told\n"


def test_what_is_left_in_the_background_ends_with_the_command(tmp_path: Path) -> None:
    """Also when it holds the output open: the end does not wait for it."""
    began = time.monotonic()
    runner = Runner(tmp_path, "sleep 300 & echo $!")
    assert runner.run() == 0
    assert time.monotonic() - began < 5
    assert not _runs(int(runner.output()))


def _runs(process: int) -> bool:
    try:
        return " Z" not in Path(f"/proc/{process}/stat").read_text()[:40]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("reason", "said"), [("preempted", b"usr1"), ("cancelled", b"term")])
def test_a_notice_is_a_signal_a_file_and_an_answer(tmp_path: Path, reason: str, said: bytes) -> None:
    traps = "trap 'echo usr1; exit 1' USR1; trap 'echo term; exit 1' TERM; "
    runner = Runner(tmp_path, PRINT_ENDPOINT + traps + "while :; do sleep 0.05; done", signal="SIGUSR1").start()
    runner.wait_for_output(b"http")
    assert runner.ask("GET", "/notice") == (204, b"")
    runner.notice(reason, 30)
    assert runner.code() == 1
    assert runner.output().endswith(said + b"\n")
    assert ("SIGUSR1" if reason == "preempted" else "SIGTERM") in runner.status["notice"]
    assert runner.status["end"] == "exited"


def test_grace_ends_at_the_deadline(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "trap '' TERM; echo ready; while :; do sleep 0.05; done").start()
    runner.wait_for_output(b"ready")
    began = time.monotonic()
    runner.notice("preempted", 1)
    assert runner.code() == 137
    assert 0.8 < time.monotonic() - began < 5
    assert runner.status["signal"] == signal.SIGKILL and "SIGTERM" in runner.status["notice"]


def test_checkpoint_done_ends_the_grace_early(tmp_path: Path) -> None:
    runner = Runner(tmp_path, PRINT_ENDPOINT + "trap '' TERM; while :; do sleep 0.05; done").start()
    runner.wait_for_output(b"http")
    assert runner.ask("POST", "/checkpoint", b"")[0] == 204  # before a notice it ends nothing
    runner.notice("preempted", 60)
    wait_for(lambda: runner.status.get("notice"), timeout_s=20, what="the notice")
    status, body = runner.ask("GET", "/notice")
    assert status == 200 and json.loads(body)["reason"] == "preempted"
    assert runner.ask("POST", "/checkpoint", b"")[0] == 204
    assert runner.code(10) == 137
    assert runner.status["checkpoint_at_ms"] is not None


def test_a_notice_is_found_without_its_signal(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done").start()
    runner.wait_for_output(b"ready")
    document = {"reason": "cancelled", "deadline_ms": round(time.time() * 1000) + 30_000}
    (runner.inside / "notice.json").write_text(json.dumps(document))
    assert runner.code() == 4


def test_a_notice_during_setup_leaves_the_command_out(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "echo never", setup="echo ready; while :; do sleep 0.05; done").start()
    runner.wait_for_output(b"ready")
    runner.notice("cancelled", 30)
    runner.code()
    assert runner.status["end"] == "exited" and runner.output() == b"ready\n"


def test_progress_is_checked_and_kept(tmp_path: Path) -> None:
    runner = Runner(tmp_path, PRINT_ENDPOINT + "trap 'exit 0' TERM; while :; do sleep 0.05; done").start()
    runner.wait_for_output(b"http")
    for refused in (b"[]", b"{", b'{"fraction": 2}', b'{"fraction": true}', b'{"line": 3}'):
        assert runner.ask("POST", "/progress", refused)[0] == 422
    assert runner.ask("POST", "/elsewhere", b"{}")[0] == 404
    assert runner.ask("POST", "/progress", b'{"fraction": 0.3, "line": "epoch 3"}') == (204, b"")
    progress = json.loads((runner.outside / "progress.json").read_text())
    assert (progress["fraction"], progress["line"]) == (0.3, "epoch 3")
    runner.notice("cancelled", 30)
    assert runner.code() == 0


def test_a_working_directory_is_unpacked_and_entered(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "cat data/x.txt; ./run.sh", archives=[{"digest": "d", "target": ""}])
    with zipfile.ZipFile(runner.inside / "archives" / "d.zip", "w") as archive:
        archive.writestr("data/x.txt", "text\n")
        script = zipfile.ZipInfo("run.sh")
        script.external_attr = (stat.S_IFREG | 0o755) << 16
        archive.writestr(script, "#!/bin/sh\npwd\n")
    assert runner.run() == 0
    assert runner.output().decode() == f"text\n{runner.workspace}\n"


def test_an_upload_that_is_none_fails_the_setup(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "echo never", archives=[{"digest": "d", "target": f"{tmp_path}/there"}])
    (runner.inside / "archives" / "d.zip").write_bytes(b"no zip")
    assert runner.run() == 1
    assert runner.status["end"] == "setup_failed" and "can't be unpacked" in runner.status["detail"]
