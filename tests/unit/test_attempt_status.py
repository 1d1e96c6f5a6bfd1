"""What a container says of itself, told by somebody who means harm; and what becomes of it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from node.daemon.attempt_ends import AttemptOutcome, ContainerExit, outcome
from node.daemon.attempt_status import RunnerEnd, RunnerPhase, RunnerStatus, read_progress, read_status
from scheduler.states import AttemptEnd

GOOD = {"phase": "ended", "end": "exited", "exit_code": 3, "running_at_ms": 5, "ended_at_ms": 7, "more": [1]}
MEMORY = 128 * 2**20


def write(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_good_one_is_read(tmp_path: Path) -> None:
    found = read_status(write(tmp_path / "status.json", GOOD))
    assert found == RunnerStatus(RunnerPhase.ENDED, 5, 7, RunnerEnd.EXITED, 3)


@pytest.mark.parametrize(
    "document",
    [
        "", "{", "[]", "null", "9" * 5000, "[" * 50_000, "x" * 70_000,
        {"phase": "succeeded"},
        {**GOOD, "exit_code": 256}, {**GOOD, "exit_code": -1}, {**GOOD, "signal": 0}, {**GOOD, "signal": 65},
        {**GOOD, "running_at_ms": -1}, {**GOOD, "ended_at_ms": 2**60}, {**GOOD, "end": "preempted"},
    ],
)  # fmt: skip
def test_what_can_not_be_is_not_read(tmp_path: Path, document: Any) -> None:
    assert read_status(write(tmp_path / "status.json", document)) is None


def test_texts_are_short_and_can_be_kept(tmp_path: Path) -> None:
    document = '{"phase": "running", "detail": "a\\u0000b\\ud800", "notice": "' + "n" * 10_000 + '"}'
    found = read_status(write(tmp_path / "status.json", document))
    assert found is None or (found.detail.encode() and "\0" not in found.detail and len(found.notice) == 500)
    found = read_status(write(tmp_path / "status.json", {"phase": "running", "detail": "a\0b", "notice": 5}))
    assert found is not None and (found.detail, found.notice) == ("ab", "")


def test_links_pipes_and_directories_are_not_read(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", GOOD)
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("link", "fifo", "directory", "absent"):
        assert read_status(tmp_path / name) is None and read_progress(tmp_path / name) is None


@pytest.mark.parametrize("document", [{"fraction": 2}, '{"fraction": NaN}', {"fraction": "x"}, "["])
def test_progress_out_of_range_is_none(tmp_path: Path, document: Any) -> None:
    assert read_progress(write(tmp_path / "progress.json", document)) is None


def ended(end: RunnerEnd = RunnerEnd.EXITED, code: int | None = 0, signal: int | None = None) -> RunnerStatus:
    return RunnerStatus(RunnerPhase.ENDED, 1, 2, end, code, signal)


@pytest.mark.parametrize(
    ("status", "exited", "expected"),
    [
        (ended(code=3), ContainerExit(3, False), AttemptOutcome(AttemptEnd.EXITED, 3)),
        (ended(code=None, signal=9), ContainerExit(137, False), AttemptOutcome(AttemptEnd.EXITED, None, 9)),
        (ended(code=0), ContainerExit(0, True), AttemptOutcome(AttemptEnd.EXITED, 0)),  # it coped
        (
            ended(code=None, signal=9),
            ContainerExit(137, True),
            AttemptOutcome(AttemptEnd.OUT_OF_MEMORY, None, 9, "memory: 128 MiB"),
        ),
        (ended(code=1), ContainerExit(1, True), AttemptOutcome(AttemptEnd.OUT_OF_MEMORY, 1, None, "memory: 128 MiB")),
        (ended(RunnerEnd.SETUP_FAILED, 3), ContainerExit(3, False), AttemptOutcome(AttemptEnd.SETUP_FAILED, 3)),
        (
            None,
            ContainerExit(127, False),
            AttemptOutcome(AttemptEnd.START_FAILED, 127, detail="the image has no python3 that runs"),
        ),
        (RunnerStatus(RunnerPhase.RUNNING), ContainerExit(137, False), AttemptOutcome(AttemptEnd.EXITED, None, 9)),
        (
            RunnerStatus(RunnerPhase.RUNNING),
            ContainerExit(137, True),
            AttemptOutcome(AttemptEnd.OUT_OF_MEMORY, None, 9, "memory: 128 MiB"),
        ),
    ],
)
def test_how_it_ended(status: RunnerStatus | None, exited: ContainerExit, expected: AttemptOutcome) -> None:
    assert outcome(status, exited, memory_bytes=MEMORY, timeout_s=None) == expected
