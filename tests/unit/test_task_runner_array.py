"""The runner's array mode as a process: elements one after another, each a process tree of its own."""

import time
from pathlib import Path

import pytest

from tests.unit.task_runner_process import Runner
from tests.waiting import wait_for


def alive(path: Path) -> bool:
    """Whether the process whose id a file holds still runs."""
    return Path(f"/proc/{path.read_text().strip()}").exists()


def test_elements_run_one_after_another_each_with_its_end_and_output(tmp_path: Path) -> None:
    command = "echo i$TASK_INDEX a$ATTEMPT; exit $((TASK_INDEX % 3))"
    runner = Runner(tmp_path, command, array=True, environment={"ATTEMPT": "9"}).give(4, 5, 6, number=2)
    assert runner.run() == 0
    told = runner.told()
    assert [(each["place"], each["end"], each["exit_code"]) for each in told] == [
        (0, "exited", 1), (1, "exited", 2), (2, "exited", 0),
    ]  # fmt: skip
    output = runner.output()
    assert [output[each["log_from"] : each["log_to"]] for each in told] == [b"i4 a2\n", b"i5 a2\n", b"i6 a2\n"]
    assert all(each["started_at_ms"] <= each["ended_at_ms"] for each in told)
    assert (runner.status["end"], runner.status["exit_code"]) == ("exited", 0)


def test_it_waits_for_more_and_sets_up_once(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "true", array=True, setup=f"echo once >> {tmp_path}/setup").give(0, over=False).start()
    wait_for(lambda: len(runner.told()) == 1, timeout_s=20, what="the first element's end")
    with (runner.inside / "elements").open("a") as file:
        file.write('{"place": 1, "ind')
        file.flush()
        time.sleep(0.05)
        file.write('ex": 7, "number": 1}\n{"over": true}\n')
    assert runner.code() == 0
    assert [each["place"] for each in runner.told()] == [0, 1]
    assert (tmp_path / "setup").read_text() == "once\n"


@pytest.mark.parametrize(
    "leave",
    [
        "sleep 1000 & echo $! > {path}/left",
        "setsid sleep 1000 & echo $! > {path}/left",
        "setsid sh -c 'setsid sleep 1000 & echo $! > {path}/left; exec sleep 1000' & sleep 0.3",
    ],
)
def test_nothing_of_an_element_lives_on(tmp_path: Path, leave: str) -> None:
    runner = Runner(tmp_path, leave.format(path=tmp_path), array=True).give(0, over=False).start()
    wait_for(lambda: len(runner.told()) == 1, timeout_s=20, what="its end")
    assert not alive(tmp_path / "left")
    runner.give()
    assert runner.code() == 0


def test_each_has_its_own_time_and_signals_are_told(tmp_path: Path) -> None:
    command = "[ $TASK_INDEX = 0 ] && exec sleep 1000; [ $TASK_INDEX = 1 ] && kill -KILL $$; ulimit -S -n 64; ulimit -n"
    runner = Runner(tmp_path, command, array=True, timeout_s=1).give(0, 1, 2)
    assert runner.run() == 0
    assert [(each["end"], each["exit_code"], each["signal"]) for each in runner.told()] == [
        ("timed_out", None, 15), ("exited", None, 9), ("exited", 0, None),
    ]  # fmt: skip
    assert runner.output() == b"64\n"


def test_of_what_had_to_give_way_nothing_is_told(tmp_path: Path) -> None:
    command = "[ $TASK_INDEX = 0 ] || { echo there; exec sleep 1000; }"
    runner = Runner(tmp_path, command, array=True).give(0, 1, 2).start()
    runner.wait_for_output(b"there")
    runner.notice("preempted", 10)
    assert runner.code() == 0
    assert [each["place"] for each in runner.told()] == [0]
    assert "SIGTERM" in runner.status["notice"]


def test_a_secret_at_an_elements_end_stays_within_it(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "printf 'hush'", array=True, secrets={"TOKEN": "hush-hush"}).give(0, 1)
    assert runner.run() == 0
    assert [(each["log_from"], each["log_to"]) for each in runner.told()] == [(0, 4), (4, 8)]


def test_an_element_takes_little_beside_its_own_time(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "true", array=True).give(*range(200))
    assert runner.run() == 0
    told = runner.told()
    took_ms = told[-1]["ended_at_ms"] - told[0]["started_at_ms"]
    assert len(told) == 200 and took_ms < 200 * 50, "loosely: other things run on this machine"
