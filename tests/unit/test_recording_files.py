"""Recordings as files, and the command that replays one."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.recordings import RecordingFiles, read_lines, recordings
from deploy.cli import app
from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.recording import Recorder
from tests.unit.simulated_world import A100, World, host


def files(directory: Path, **options: int) -> RecordingFiles:
    moments = iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second) for second in range(1000))
    return RecordingFiles(directory, clock=lambda: next(moments), **options)


def recorded(directory: Path) -> Path:
    settings = EngineSettings(patience_s=3)
    world = World(lambda: Engine(settings), host(1, A100, A100))
    kept = files(directory)
    world.scheduler.recorder = Recorder(kept, asdict(settings))
    for number in range(1, 6):
        world.submit(number)
        world.work()
        world.pass_time(1)
    kept.close()
    (path,) = recordings(directory)
    return path


def test_a_new_file_begins_when_one_is_long_enough_and_the_oldest_go(tmp_path: Path) -> None:
    kept = files(tmp_path / "r", most_bytes=20, kept=3)
    for number in range(10):
        if kept.wants_begin:
            kept.begin()
        kept.write(f"line {number} of ten")
    kept.close()
    found = recordings(tmp_path / "r")
    assert [[*read_lines(path)] for path in found] == [
        ["line 4 of ten\n", "line 5 of ten\n"],
        ["line 6 of ten\n", "line 7 of ten\n"],
        ["line 8 of ten\n", "line 9 of ten\n"],
    ]
    assert (tmp_path / "r").stat().st_mode & 0o077 == 0, "it names customers"


def test_what_cannot_be_written_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    kept = files(tmp_path / "file" / "r")
    assert kept.wants_begin
    kept.begin()
    kept.write("nothing")
    assert not kept.wants_begin, "not tried again at once"
    assert "decisions are not recorded" in caplog.text


def test_a_file_that_a_crash_has_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    whole = list(read_lines(path))
    path.write_bytes(path.read_bytes()[:-40])
    cut = list(read_lines(path))
    assert cut == whole[: len(cut)]
    assert replayed(path)[0] == 0


def test_the_command_says_whether_it_is_the_same(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    code, output = replayed(path)
    assert (code, output) == (0, "The same: 7 plans with 2 placements, 0 evictions.\n")
    lines = [json.loads(line) for line in read_lines(path)]
    changed = next(line for line in lines if line.get("plan", {}).get("placements"))
    changed["plan"]["placements"][0]["parts"][0]["devices"][0][0] = 11
    other = files(tmp_path / "other")
    other.begin()
    for line in lines:
        other.write(json.dumps(line))
    other.close()
    code, output = replayed(*recordings(tmp_path / "other"))
    assert code == 1
    assert "plan.placements[0].parts[0].devices[0][0] was 11 and is 10 now" in output


def test_what_is_no_recording(tmp_path: Path) -> None:
    other = files(tmp_path)
    other.begin()
    other.write("{}")
    other.close()
    (path,) = recordings(tmp_path)
    assert replayed(path)[0] == 2
    assert replayed(tmp_path / "missing")[0] == 2
    (tmp_path / "text").write_text("no gzip")
    code, output = replayed(tmp_path / "text")
    assert (code, len(output.splitlines())) == (2, 1)


def replayed(path: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["scheduler", "replay", str(path)])
    return done.exit_code, done.output
