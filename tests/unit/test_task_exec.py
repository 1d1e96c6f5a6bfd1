"""Commands beside a task's own: what the runner makes of them, and the host's end of their streams."""

import json
import socket
import struct
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.daemon.exec_stream import MOST_OUTPUT, STDERR, STDOUT, ExecStream, Frames
from tests.unit.task_runner_process import Runner


def test_it_has_what_the_tasks_command_has(tmp_path: Path) -> None:
    runner = Runner(
        tmp_path, "echo $REMOTEGPU_ENDPOINT; sleep 60", secrets={"TOKEN": "hush-hush"}, environment={"A": "x y"},
        archives=[{"digest": "d", "size_bytes": 1, "target": ""}],
    )  # fmt: skip
    with zipfile.ZipFile(runner.inside / "archives" / "d.zip", "w") as archive:
        archive.writestr("here.txt", "brought along")
    runner.start().wait_for_output(b"http")
    done = runner.execute("sh", "-c", 'cat here.txt; echo " $A $TOKEN $0"; echo $REMOTEGPU_ENDPOINT; exit 9', "$A")
    assert done.stdout.splitlines() == [b"brought along x y hush-hush $A", runner.output().strip()]
    assert (done.stderr, done.returncode) == (b"", 9)
    runner.notice("cancelled", 0)
    runner.code()


def test_it_can_be_missing_or_no_program(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "true")
    missing = runner.execute("no-such-program")
    assert (missing.returncode, missing.stderr) == (127, b"remotegpu: no-such-program: there is no such command\n")
    refused = runner.execute(str(tmp_path))
    assert refused.returncode == 126 and b"Permission denied" in refused.stderr


def test_who_pipes_into_what_ends_is_told_by_sigpipe(tmp_path: Path) -> None:
    done = Runner(tmp_path, "true").execute("sh", "-c", "(yes; echo $? >&2) | head -1")
    assert (done.stdout, done.stderr) == (b"y\n", b"141\n")


def test_what_the_task_did_to_its_status_does_not_matter(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "true")
    for status in (b"", b"[]", b"{", json.dumps({"phase": "running"}).encode()):
        (runner.outside / "status.json").write_bytes(status)
        assert runner.execute("printenv", "REMOTEGPU_ENDPOINT").stdout == b"\n"


def framed(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=20)), max_size=8),
    st.lists(st.integers(1, 15), min_size=1),
)
def test_frames_are_taken_off_wherever_they_are_cut(written: list[tuple[int, bytes]], cuts: list[int]) -> None:
    whole = b"".join(framed(stream, data) for stream, data in written)
    frames, seen = Frames(plain=False), {STDOUT: b"", STDERR: b""}
    place = number = 0
    while place < len(whole):
        part = whole[place : place + cuts[number % len(cuts)]]
        place, number = place + len(part), number + 1
        for stream, data in frames.taken(part):
            seen[stream] += data
    assert seen == {wanted: b"".join(data for stream, data in written if stream == wanted) for wanted in seen}


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_output_comes_at_once_and_bounded_and_then_its_end(ends: tuple[socket.socket, socket.socket]) -> None:
    docker, attached = ends
    stream = ExecStream(attached, tty=True)
    assert stream.read(0).size == 0
    threading.Timer(0.1, lambda: docker.send(b"typed")).start()
    output = stream.read(20)
    assert (bytes(output.streams[STDOUT]), output.over) == (b"typed", False)
    writer = threading.Thread(target=docker.sendall, args=(bytes(3 * MOST_OUTPUT),))
    writer.start()
    total = 0
    while total < 3 * MOST_OUTPUT:
        output = stream.read(20)
        assert 0 < output.size <= MOST_OUTPUT
        total += output.size
    writer.join()
    docker.close()
    assert stream.read(20).over
    stream.close()


def test_what_is_left_at_the_end_is_kept(ends: tuple[socket.socket, socket.socket]) -> None:
    docker, attached = ends
    stream = ExecStream(attached, tty=False)
    assert not stream.waits_for_reader()
    writer = threading.Thread(target=docker.sendall, args=(framed(STDOUT, bytes(3 * MOST_OUTPUT)),))
    writer.start()
    while writer.is_alive():
        assert stream.waits_for_reader() or not writer.is_alive()
        stream.take_in()
    docker.close()
    total = 0
    while not (output := stream.read(20)).over:
        total += output.size
    assert total + output.size == 3 * MOST_OUTPUT
    stream.close()


def test_input_says_how_much_was_taken(ends: tuple[socket.socket, socket.socket]) -> None:
    docker, attached = ends
    stream = ExecStream(attached, tty=False)
    content = bytes(range(256)) * 2**14
    taken = stream.write(content, 0.05)
    assert 0 < taken < len(content)
    assert stream.write(b"x", 0.05) == 0
    read = b""
    while len(read) < taken:
        read += docker.recv(2**20)
    assert read == content[:taken]
    stream.end_input()
    assert docker.recv(1) == b""
    docker.close()
    assert stream.write(content, 0.05) == len(content)  # nobody reads it any more
    stream.close()


def test_at_a_terminal_the_end_of_input_is_typed(ends: tuple[socket.socket, socket.socket]) -> None:
    docker, attached = ends
    stream = ExecStream(attached, tty=True)
    stream.end_input()
    assert docker.recv(10) == b"\x04"
    stream.close()
    docker.close()


def test_closing_sends_a_reader_away(ends: tuple[socket.socket, socket.socket]) -> None:
    docker, attached = ends
    stream = ExecStream(attached, tty=True)
    found: list[bool] = []
    reader = threading.Thread(target=lambda: found.append(stream.read(60).over))
    reader.start()
    stream.close()
    reader.join(20)
    docker.close()
    assert found == [True]
