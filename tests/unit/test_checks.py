"""`make test` itself: it runs every suite that there is, whatever fails, and never longer than it may."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deploy.checks import Check, run_checks
from deploy.checks import test_lanes as suite_lanes

TESTS = Path(__file__).parent.parent


def files_of(command: Sequence[str]) -> Iterator[Path]:
    ignored = {TESTS.parent / word.removeprefix("--ignore=") for word in command if word.startswith("--ignore=")}
    for path in (TESTS.parent / word for word in command if word.startswith("tests/")):
        found = path.glob("test_*.py") if path.is_dir() else [path]
        yield from (file for file in found if file not in ignored)


def test_every_file_of_tests_is_run_once() -> None:
    commands = [check.command for lane in suite_lanes() for check in lane]
    assert sorted(file for command in commands for file in files_of(command)) == sorted(TESTS.glob("*/test_*.py"))


def test_arguments_choose_what_is_run() -> None:
    (lane,) = suite_lanes(("tests/e2e", "-k", "bill"))
    assert lane[-1].command[-3:] == ("tests/e2e", "-k", "bill")


def test_what_fails_or_takes_too_long_is_named_and_the_rest_is_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    marks = tmp_path / "cleaned up", tmp_path / "ran"
    slow = f"import time, pathlib\ntry: time.sleep(60)\nfinally: pathlib.Path({str(marks[0])!r}).touch()"
    checks = [
        Check("slow", (sys.executable, "-c", slow), 5),
        Check("failing", (sys.executable, "-c", "raise SystemExit(3)"), 60),
        Check("good", (sys.executable, "-c", f"open({str(marks[1])!r}, 'w')"), 60),
    ]
    assert not run_checks([checks])
    assert all(mark.exists() for mark in marks), "the slow one may clean up, and the last one runs"
    assert "1 of 3 checks passed; failed: slow, failing" in capfd.readouterr().out
    assert run_checks([checks[2:]])


def test_lanes_run_side_by_side_and_each_check_is_shown_whole(capfd: pytest.CaptureFixture[str]) -> None:
    talks = "import time\nfor n in range(3): print('{0}', n, flush=True); time.sleep(0.2)"
    lanes = [[Check(name, (sys.executable, "-c", talks.format(name)), 60)] for name in ("one", "two")]
    assert run_checks(lanes)
    shown = capfd.readouterr().out
    assert "one 0\none 1\none 2\n== one: passed" in shown
    assert "two 0\ntwo 1\ntwo 2\n== two: passed" in shown
