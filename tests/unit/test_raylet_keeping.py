"""How a daemon keeps its raylet: with a stand-in for `ray start`, whose raylets come at once, slowly, or not at all."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from node.daemon.config import HostConfig, HostDirectory
from node.raylet import Raylet
from scheduler.host_protocol import GpuFacts, HostFacts
from tests.waiting import wait_for

RAY = """
import os, pathlib, subprocess, sys, time
place = pathlib.Path(os.environ["STAND_IN"])
(place / f"starts-{os.getpid()}").write_text(chr(10).join(sys.argv[1:]))
while not (place / "go").exists():
    time.sleep(0.02)
if (place / "fail").exists():
    sys.exit(1)
subprocess.Popen([place / "raylet", *sys.argv[1:]], start_new_session=True, stdin=subprocess.DEVNULL)
"""
FACTS = HostFacts(
    "boot", "h", "10.0.0.1", "Debian", "6.1", 8, 2**36, 2**40, "20.10", "watcher", simulated=True,
    gpus=(GpuFacts(0, "GPU-a", "A100", 2**36),),
)  # fmt: skip

MakeRaylet = Callable[[str], Raylet]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the stand-in is told what to do: `go` lets a start go on, `fail` lets it fail."""
    scripts = tmp_path / "ray" / "scripts"
    scripts.mkdir(parents=True)
    for package in (scripts, scripts.parent):
        (package / "__init__.py").touch()  # regular packages: those come before the real one's
    (scripts / "scripts.py").write_text(RAY)
    program = tmp_path / "raylet"
    program.write_text(f"#!{sys.executable}\nimport signal\nsignal.pause()\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "go").touch()
    (tmp_path / "hosts").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    yield tmp_path
    for process in running(tmp_path):
        process.kill()
        process.wait(10)


@pytest.fixture
def make(place: Path) -> MakeRaylet:
    def make(name: str) -> Raylet:
        """A new daemon's, of the host `name`."""
        directory = HostDirectory(place / "hosts" / name)
        directory.path.mkdir(exist_ok=True)
        config = HostConfig(host_id=f"uid-{name}", name=name, internal_url="https://x", ray_address="10.0.0.1:6379")
        return Raylet(directory, config, lambda: FACTS)

    return make


def running(place: Path) -> list[psutil.Process]:
    """The raylets, and starts of raylets, of this test."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        ours = str(place / "raylet") in words or ("ray.scripts.scripts" in words and _stands_in(process, place))
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _stands_in(process: psutil.Process, place: Path) -> bool:
    try:
        return process.environ().get("STAND_IN") == str(place)
    except psutil.Error:
        return False


def starts(place: Path) -> list[str]:
    return [path.read_text() for path in place.glob("starts-*")]


def pid_of(raylet: Raylet) -> object:
    return raylet.view()["pid"]


def test_the_next_daemon_adopts_the_raylet_and_starts_one_when_it_is_gone(place: Path, make: MakeRaylet) -> None:
    first = make("a")
    first.keep()
    (raylet,) = running(place)
    assert pid_of(first) == raylet.pid and first.runs()
    second = make("a")
    assert not second.runs()
    second.keep()
    assert pid_of(second) == raylet.pid and len(starts(place)) == 1
    raylet.kill()
    wait_for(lambda: not second.runs(), timeout_s=10, what="the end of the raylet")
    second.keep()
    (successor,) = running(place)
    assert successor.pid != raylet.pid and pid_of(second) == successor.pid


def test_another_hosts_raylet_is_not_ours(place: Path, make: MakeRaylet) -> None:
    make("a").keep()
    other = make("b")
    other.keep()
    assert len(running(place)) == 2 and len(starts(place)) == 2


def test_it_offers_its_devices_under_its_label(place: Path, make: MakeRaylet) -> None:
    make("a").keep()
    (words,) = starts(place)
    assert "--labels=remotegpu-host=uid-a" in words
    assert '--resources={"gpu-GPU-a": 1}' in words and "--num-gpus=0" in words


def test_a_failed_start_is_tried_again_later_and_later(
    place: Path, make: MakeRaylet, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("node.raylet.time.monotonic", lambda: now[0])
    (place / "fail").touch()
    raylet = make("a")
    raylet.keep()
    assert len(starts(place)) == 1 and not raylet.runs()
    for failures, pause in enumerate((2, 4, 8, 16, 32, 60, 60), 1):
        now[0] += pause - 0.1
        raylet.keep()
        assert len(starts(place)) == failures
        now[0] += 0.1
        raylet.keep()
        assert len(starts(place)) == failures + 1
    (place / "fail").unlink()
    now[0] += 60
    raylet.keep()
    assert raylet.runs()


def test_hosts_of_one_machine_take_turns(place: Path, make: MakeRaylet) -> None:
    (place / "go").unlink()
    one, other = make("a"), make("b")
    thread = threading.Thread(target=one.keep)
    thread.start()
    wait_for(lambda: starts(place), timeout_s=20, what="the first start")
    other.keep()
    assert len(starts(place)) == 1
    (place / "go").touch()
    thread.join(20)
    other.keep()
    assert one.runs() and other.runs() and pid_of(one) != pid_of(other)


def test_a_start_that_outlives_its_daemon_is_waited_for(place: Path, make: MakeRaylet) -> None:
    """Two raylets of one host would offer each device twice."""
    (place / "go").unlink()
    make("a")
    program = (
        "from node.raylet import Raylet; from node.daemon.config import HostConfig, HostDirectory; import pathlib;"
        "from tests.unit.test_raylet_keeping import FACTS;"
        "config = HostConfig(host_id='uid-a', name='a', internal_url='https://x', ray_address='10.0.0.1:6379');"
        f"Raylet(HostDirectory(pathlib.Path({str(place / 'hosts' / 'a')!r})), config, lambda: FACTS).keep()"
    )
    repository = Path(__file__).parents[2]
    path = os.pathsep.join([str(place), str(repository)])
    daemon = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, cwd=repository)
    wait_for(lambda: starts(place), timeout_s=60, what="the first daemon's start")
    daemon.kill()
    daemon.wait(10)
    following = make("a")
    following.keep()
    assert len(starts(place)) == 1 and not following.runs()
    (place / "go").touch()

    def adopted() -> bool:
        following.keep()
        return following.runs()

    wait_for(adopted, timeout_s=20, what="the raylet of the killed daemon's start")
    assert len(starts(place)) == 1
