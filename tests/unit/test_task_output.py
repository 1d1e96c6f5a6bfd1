"""What the runner keeps of a command's output: masked, in segments, and of bounded size."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.task_runner.masking import MASK, Masking, hidden_texts
from node.task_runner.output import DROPPED, STDERR, STDOUT, Output
from tests.unit.task_runner_process import RECORD, Runner

SECRETS = [b"abab", b"ababcd", b"xabax", b"cdcdcd"]


def masked(texts: list[bytes], *reads: bytes) -> bytes:
    masking = Masking(texts)
    return b"".join(masking.pass_on(read) for read in reads) + masking.rest()


def test_a_secret_is_masked_where_a_read_ends_within_it() -> None:
    for place in range(1, 8):
        whole = b"before hunter22 after"
        assert masked([b"hunter22"], whole[: 7 + place], whole[7 + place :]) == b"before *** after"


def test_what_only_looked_like_a_beginning_is_shown() -> None:
    masking = Masking([b"hunter22"])
    assert masking.pass_on(b"a hunter") == b"a "
    assert masking.pass_on(b" walks") == b"hunter walks"
    assert masking.pass_on(b" hunt") == b" " and masking.rest() == b"hunt"


@given(
    st.lists(st.sampled_from([b"a", b"b", b"x", b"cd", b"abab", b"xabax", b"cdcdcd", b"\n"]), max_size=30), st.data()
)
def test_how_it_is_read_changes_nothing_and_nothing_is_seen(parts: list[bytes], data: st.DataObject) -> None:
    """Whatever the boundaries: no secret is whole in what is shown."""
    whole, reads = b"".join(parts), []
    texts = sorted(SECRETS, key=len, reverse=True)
    rest = whole
    while rest:
        length = data.draw(st.integers(1, len(rest)))
        reads.append(rest[:length])
        rest = rest[length:]
    shown = masked(texts, *reads)
    assert not any(text in shown for text in texts)
    if not any(text in whole for text in texts):
        assert shown == whole


def test_what_is_hidden_of_a_value() -> None:
    assert hidden_texts(["abc", ""]) == []  # too short to be one
    assert hidden_texts(["token-1\n"]) == [b"token-1\n", b"token-1"]
    key = "-----BEGIN-----\nMIIEvQIBADAN\nshort\n"
    assert b"MIIEvQIBADAN" in hidden_texts([key]) and b"short" not in hidden_texts([key])


def test_both_streams_are_masked(tmp_path: Path) -> None:
    command = 'printf hunt; sleep 0.2; printf er22; echo "err hunter22" >&2'
    runner = Runner(tmp_path, command, secrets={"PASSWORD": "hunter22"})
    assert runner.run() == 0
    assert (runner.output(STDOUT), runner.output(STDERR)) == (MASK, b"err " + MASK + b"\n")


def read(directory: Path) -> list[tuple[int, int, int, bytes]]:
    """Stream, position, bytes of output that it covers, and data."""
    found = []
    for path in sorted(directory.glob("*.log")):
        content, place, first = path.read_bytes(), 0, True
        while place < len(content):
            _, stream, _, _, position, length = RECORD.unpack_from(content, place)
            assert not first or path.name == f"{position:020d}.log"
            data = content[place + RECORD.size : place + RECORD.size + length]
            found.append((stream, position, int.from_bytes(data, "big") if stream == DROPPED else length, data))
            place, first = place + RECORD.size + length, False
    return found


def assert_complete(directory: Path, end: int) -> None:
    """Each byte is there or counted as dropped, once."""
    position = 0
    for _, at, length, _ in read(directory):
        assert at == position
        position += length
    assert position == end


def test_segments_are_named_by_their_first_byte(tmp_path: Path) -> None:
    output = Output(str(tmp_path), segment_bytes=200, ring_bytes=10_000)
    for number in range(20):
        output.write(STDOUT if number % 2 else STDERR, b"x" * 50, 1)
    output.close(1)
    assert_complete(tmp_path, 1000)
    assert all(path.stat().st_size <= 200 for path in tmp_path.glob("*.log"))


def test_the_oldest_that_nobody_took_is_dropped_and_counted(tmp_path: Path) -> None:
    output = Output(str(tmp_path), segment_bytes=200, ring_bytes=1000)
    for _ in range(100):
        output.write(STDOUT, b"x" * 100, 1)
        assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) <= 1000
    output.write(STDOUT, b"the last", 1)
    output.close(1)
    assert_complete(tmp_path, 10_008)
    marks = [each for each in read(tmp_path) if each[0] == DROPPED]
    assert len(marks) == 1 and marks[0][1] == 0 and marks[0][2] > 8_000
    assert read(tmp_path)[-1][3] == b"the last"


def test_what_was_taken_is_not_counted_as_dropped(tmp_path: Path) -> None:
    output = Output(str(tmp_path), segment_bytes=200, ring_bytes=1000)
    for _ in range(100):
        output.write(STDOUT, b"x" * 100, 1)
        for path in sorted(tmp_path.glob("*.log"))[:-1]:
            path.unlink()
    assert not any(stream == DROPPED for stream, *_ in read(tmp_path))


def test_a_full_disk_drops_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, write = Output(str(tmp_path)), os.write
    output.write(STDOUT, b"before", 1)

    def full(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    output.write(STDOUT, b"lost!", 2)
    monkeypatch.setattr(os, "write", write)
    output.write(STDOUT, b"after", 3)
    output.close(4)
    assert [(stream, position, length) for stream, position, length, _ in read(tmp_path)] == [
        (STDOUT, 0, 6),
        (DROPPED, 6, 5),
        (STDOUT, 11, 5),
    ]


def test_a_flood_does_not_hold_up_the_command(tmp_path: Path) -> None:
    """Nobody reads: what is kept stays bounded, and every byte is accounted for."""
    runner = Runner(tmp_path, "head -c 150000000 /dev/zero")
    assert runner.run() == 0
    log = runner.outside / "log"
    assert sum(path.stat().st_size for path in log.glob("*.log")) <= 64 * 2**20
    assert_complete(log, 150_000_000)
