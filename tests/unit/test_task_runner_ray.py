"""A Ray of a task's own: how the runners of its nodes bring it up and go on together. `ray` is a stand-in."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from node.task_runner.meeting import JOINED, OVER, READY, Meeting, Visit
from tests.unit.task_runner_process import Runner
from tests.waiting import wait_for

TOKEN = "0123456789abcdef"
# Notes how it was called, and leaves what `ray start` leaves: a raylet.
_RAY = """\
#!/bin/sh
echo "$* | ${RAY_AUTH_MODE:-} ${RAY_AUTH_TOKEN:-} ${RAY_OVERRIDE_RESOURCES:-none}" >> "%(calls)s"
%(do)s
"%(raylet)s" 300 </dev/null &
until grep -q raylet /proc/$!/comm; do :; done
echo $! >> "%(pids)s"
"""


class FakeRay:
    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.bin, self._calls, self.pids = path, path / "calls", path / "raylets"
        (path / "raylet").write_bytes(Path("/bin/sleep").read_bytes())
        (path / "raylet").chmod(0o755)
        self.does("")

    def does(self, line: str) -> None:
        """What it does before the raylet is there."""
        place = {"calls": self._calls, "raylet": self.bin / "raylet", "pids": self.pids, "do": line}
        (self.bin / "ray").write_text(_RAY % place)
        (self.bin / "ray").chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    @property
    def raylets(self) -> list[int]:
        return [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[FakeRay]:
    ray = FakeRay(tmp_path / "ray")
    yield ray
    for process in ray.raylets:
        with suppress(ProcessLookupError):  # the test ended it
            os.kill(process, signal.SIGKILL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def node(tmp_path: Path, ray: FakeRay) -> Callable[..., Runner]:
    port = free_port()

    def make(command: str = "echo $RAY_ADDRESS $RAY_AUTH_MODE", rank: int = 0, nodes: int = 1, **order: Any) -> Runner:
        ray_node = {
            "rank": rank, "nodes": nodes, "address": "127.0.0.1", "head_address": "127.0.0.1", "port": 6379,
            "meeting_port": port, "cpus": 4, "gpus": 2, "object_store_bytes": 10**8,
        }  # fmt: skip
        given = {"PATH": f"{ray.bin}:{os.environ['PATH']}", "RAY_OVERRIDE_RESOURCES": "{}"}
        secrets = {"RAY_AUTH_TOKEN": TOKEN}
        path = tmp_path / f"node-{rank}"
        return Runner(path, command, secrets=secrets, **{"environment": given, "ray_node": ray_node, **order})

    return make


def test_one_node_is_a_head_of_what_the_allocation_has(ray: FakeRay, node: Callable[..., Runner]) -> None:
    runner = node("echo $RAY_ADDRESS $RAY_AUTH_MODE; echo $RAY_AUTH_TOKEN")
    assert runner.run() == 0
    assert runner.output() == b"127.0.0.1:6379 token\n***\n"
    (call,) = ray.calls
    assert call == (
        "start --head --port=6379 --include-dashboard=false --node-ip-address=127.0.0.1 --num-cpus=4 --num-gpus=2"
        f" --object-store-memory=100000000 --disable-usage-stats | token {TOKEN} none"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_command_beside_the_tasks_finds_its_ray(node: Callable[..., Runner], rank: int) -> None:
    said = node(rank=rank, nodes=2).execute("sh", "-c", "echo $RAY_ADDRESS $RAY_AUTH_MODE $RAY_AUTH_TOKEN")
    assert said.stdout.decode() == f"127.0.0.1:6379 token {TOKEN}\n"


def test_a_node_alone_is_found_by_its_own_address(node: Callable[..., Runner]) -> None:
    show = "echo $RAY_ADDRESS $RAY_AUTH_MODE"
    runner = node(show, address=None)
    assert runner.run() == 0
    assert runner.execute("sh", "-c", show).stdout == runner.output()


def test_without_ray_the_setup_has_failed(node: Callable[..., Runner]) -> None:
    runner = node(environment={"PATH": "/usr/bin:/bin"})
    assert runner.run() == 1
    assert runner.status["end"] == "setup_failed" and "there is no `ray` here" in runner.status["detail"]
    assert b"there is no `ray` here" in runner.output(2)


def test_a_head_that_does_not_start_says_why(ray: FakeRay, node: Callable[..., Runner]) -> None:
    ray.does("echo some banner; echo 'ValueError: no memory'; exit 3")
    runner = node()
    assert runner.run() == 1
    assert (runner.status["end"], runner.output()) == ("setup_failed", b"")
    assert runner.status["detail"] == "`ray start` ended with 3: ValueError: no memory"


def test_ray_may_come_with_the_setup(ray: FakeRay, node: Callable[..., Runner]) -> None:
    (ray.bin / "ray").rename(ray.bin / "ray.wheel")
    runner = node(setup=f"mv {ray.bin}/ray.wheel {ray.bin}/ray")
    assert runner.run() == 0


def test_the_command_runs_on_the_first_when_all_have_joined(ray: FakeRay, node: Callable[..., Runner]) -> None:
    others = [node("echo never", rank=rank, nodes=3).start() for rank in (1, 2)]
    wait_for(lambda: all(other.status for other in others), timeout_s=20, what="the others' runners")
    assert ray.calls == [], "they wait for the head"
    first = node(f"cat {ray.bin}/calls; exit 3", nodes=3).start()
    assert first.code() == 3
    assert [other.code() for other in others] == [0, 0]
    calls = first.output().decode().splitlines()
    assert len(calls) == 3 and "--head" in calls[0]
    assert all("--address=127.0.0.1:6379" in call for call in calls[1:])
    for other in others:
        assert other.output() == b"" and other.status["running_at_ms"] >= first.status["running_at_ms"] - 1000


def test_starting_is_tried_again_and_leaves_nothing_of_before(ray: FakeRay, node: Callable[..., Runner]) -> None:
    fails_once = f"test -e {ray.bin}/$2 || {{ touch {ray.bin}/$2; sleep 300 & echo $! >> {ray.bin}/left; exit 1; }}"
    ray.does(fails_once.replace("$2", "${2%%=*}"))
    other, first = node(rank=1, nodes=2).start(), node(nodes=2).start()
    assert (first.code(), other.code()) == (0, 0)
    assert len(ray.calls) == 4
    left = [Path(f"/proc/{line}") for line in (ray.bin / "left").read_text().split()]
    assert len(left) == 2
    wait_for(lambda: not any(process.exists() for process in left), timeout_s=10, what="the first tries' end")


def test_a_node_whose_raylet_ends_has_failed(ray: FakeRay, node: Callable[..., Runner]) -> None:
    first = node("echo up; trap 'exit 7' TERM; while :; do sleep 0.05; done", nodes=2).start()
    wait_for(lambda: ray.raylets, timeout_s=20, what="the head")
    other = node(rank=1, nodes=2).start()
    first.wait_for_output(b"up")
    head, raylet = ray.raylets
    os.kill(raylet, signal.SIGKILL)
    assert other.code(5) == 1
    assert (other.status["end"], other.status["detail"]) == ("exited", "Ray's raylet on node 1 has ended")
    os.kill(head, signal.SIGKILL)
    assert first.code(5) == 7
    assert first.status["detail"] == "Ray's raylet on node 0 has ended"


def test_a_command_whose_raylet_ended_has_not_succeeded(ray: FakeRay, node: Callable[..., Runner]) -> None:
    runner = node("echo up; trap 'exit 0' TERM; while :; do sleep 0.05; done").start()
    runner.wait_for_output(b"up")
    os.kill(ray.raylets[0], signal.SIGKILL)
    assert runner.code(5) == 1


def test_others_lend_theirs_while_the_command_has_its_grace(ray: FakeRay, node: Callable[..., Runner]) -> None:
    other = node(rank=1, nodes=2).start()
    first = node("trap 'sleep 1; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done", nodes=2).start()
    first.wait_for_output(b"up")
    other.notice("preempted", 30)
    first.notice("preempted", 30)
    assert first.code() == 0 and b"saved" in first.output()
    assert other.code() == 0


def test_who_waits_for_the_others_can_be_ended(ray: FakeRay, node: Callable[..., Runner]) -> None:
    first = node("echo never", nodes=2).start()
    wait_for(lambda: ray.raylets, timeout_s=20, what="the head")
    first.notice("cancelled", 30)
    first.code(5)
    assert first.status["end"] == "exited" and "before its command began" in first.status["detail"]


def test_who_does_not_know_the_token_is_told_nothing() -> None:
    port = free_port()
    meeting = Meeting(port, TOKEN, lambda: None)
    meeting.say(READY)
    for line in (b"{}\n", b"[]\n", b"\n", json.dumps({"rank": 1, "proof": "no"}).encode() + b"\n", b"x" * 5000):
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(line)
            with suppress(ConnectionResetError):  # it did not read all that was sent
                assert connection.recv(100) == b""
    assert meeting.joined == 0
    visit = Visit(("127.0.0.1", port), TOKEN, 1, lambda: None)
    wait_for(lambda: READY in visit.heard, timeout_s=10, what="the word")
    visit.join()
    wait_for(lambda: meeting.joined == 1, timeout_s=10, what=JOINED)
    meeting.say(OVER)
    wait_for(lambda: OVER in visit.heard, timeout_s=10, what="the end")
