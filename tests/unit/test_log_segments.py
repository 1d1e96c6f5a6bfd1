"""Output as a task's runner leaves it, and as a hostile task might: what is read follows on and tells what is gone."""

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.daemon.log_segments import Batch, Segments
from node.task_runner.output import DROPPED, STDERR, STDOUT, Output, record
from scheduler.log_records import MAX_CONTENT_BYTES, MAX_POSITION, Record, Stream, unpack_run

_WRITE = st.tuples(st.just("write"), st.sampled_from([STDOUT, STDERR]), st.text("aé€😀", min_size=1, max_size=8))
_STEP = st.one_of(_WRITE, st.just(("read",)), st.just(("again",)))


class Reader:
    """Takes what comes, as the shipping does, and checks that it follows on."""

    def __init__(self, directory: Path) -> None:
        self.segments, self.position, self.records = Segments(directory), 0, list[Record]()

    def read(self, *, final: bool = False) -> Batch:
        batch = self.segments.read(self.position, final=final)
        assert batch.position == self.position
        self.records += unpack_run(batch.content(), self.position)
        assert (self.records[-1].end if batch.records else self.position) == batch.end
        self.position = batch.end
        self.segments.forget(self.position)
        return batch

    def finish(self) -> None:
        while self.read(final=True).full:
            pass

    def text(self, stream: Stream) -> bytes:
        return b"".join(record.data for record in self.records if record.stream is stream)


def numbered(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "log").iterdir())


@given(st.lists(_STEP, max_size=60), st.integers(60, 400), st.integers(1, 6))
def test_whatever_is_dropped_the_rest_is_true_and_in_its_place(
    steps: list[tuple[str, int, str]], segment_bytes: int, segments: int
) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        output = Output(str(directory / "log"), segment_bytes=segment_bytes, ring_bytes=segment_bytes * segments)
        reader, written = Reader(directory), b""
        for at_ms, (step, *what) in enumerate(steps):
            if step == "write":
                stream, text = what
                output.write(int(stream), str(text).encode(), at_ms * 100)
                written += str(text).encode()
            elif step == "read":
                reader.read()
            else:
                reader.segments.reset()
        output.close(9999)
        reader.finish()
        assert reader.position == len(written)
        for part in reader.records:
            assert part.stream is Stream.DROPPED or written[part.position : part.end] == part.data


@given(st.lists(_STEP, max_size=40))
def test_with_room_nothing_is_dropped_and_no_character_cut(steps: list[tuple[str, int, str]]) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        output, reader = Output(str(directory / "log"), segment_bytes=100), Reader(directory)
        written = {STDOUT: b"", STDERR: b""}
        for at_ms, (step, *what) in enumerate(steps):
            if step == "write":
                stream, text = int(what[0]), str(what[1]).encode()
                written[stream] += text
                for byte in text:  # one at a time, as slow programs do
                    output.write(stream, bytes([byte]), at_ms * 100)
            else:
                batch = reader.read()
                for record in batch.records:
                    record.data.decode()
        output.close(9999)
        reader.finish()
        assert {STDOUT: reader.text(Stream.STDOUT), STDERR: reader.text(Stream.STDERR)} == written
        assert len(numbered(directory)) <= 1 or not steps


def test_a_character_waits_for_its_end_and_comes_at_last(tmp_path: Path) -> None:
    output, reader = Output(str(tmp_path / "log")), Reader(tmp_path)
    output.write(STDOUT, "a€".encode()[:-1], 0)
    assert [r.data for r in reader.read().records] == [b"a"]
    assert reader.read().records == []
    output.write(STDERR, b"meanwhile", 100)
    output.write(STDOUT, "€".encode()[-1:], 200)
    reader.read()
    assert reader.text(Stream.STDOUT).decode() == "a€"
    output.write(STDOUT, b"\xe2", 300)
    output.close(300)
    reader.finish()
    assert reader.text(Stream.STDOUT) == "a€".encode() + b"\xe2"


def test_segments_go_when_all_of_them_was_taken(tmp_path: Path) -> None:
    output, reader = Output(str(tmp_path / "log"), segment_bytes=1000), Reader(tmp_path)
    for number in range(50):
        output.write(STDOUT, b"x" * 300, number * 100)
    assert len(numbered(tmp_path)) == 17
    reader.read()
    assert len(numbered(tmp_path)) == 1
    output.write(STDOUT, b"more", 6000)
    reader.read()
    assert reader.text(Stream.STDOUT) == b"x" * 15_000 + b"more"


def test_a_reader_that_begins_again_goes_on_from_any_position(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "log"), segment_bytes=200)
    data = bytes(range(97, 123)) * 20
    for start in range(0, len(data), 26):
        output.write(STDOUT, data[start : start + 26], start * 100)
    for position in range(len(data)):
        batch = Segments(tmp_path).read(position, final=False)
        assert b"".join(record.data for record in batch.records) == data[position:]
    assert Segments(tmp_path).begin() == 0 and Segments(tmp_path / "missing").begin() == 0


def test_much_output_comes_in_batches_of_bounded_size(tmp_path: Path) -> None:
    output, reader = Output(str(tmp_path / "log")), Reader(tmp_path)
    for _ in range(200):
        output.write(STDOUT, b"x" * 65_536, 0)
    while (batch := reader.read()).full:
        assert 3 * 2**20 < len(batch.content()) <= MAX_CONTENT_BYTES
    assert reader.position == 200 * 65_536
    assert all(r.stream is Stream.STDOUT for r in reader.records)


def test_small_records_of_the_same_time_become_one(tmp_path: Path) -> None:
    output, reader = Output(str(tmp_path / "log")), Reader(tmp_path)
    for number in range(100_000):
        output.write(STDOUT, b"x", number // 10_000 * 100)
    begin_s = time.process_time()
    reader.read()
    assert len(reader.records) == 10 and time.process_time() - begin_s < 5


# what a hostile task may leave

GOOD = record(STDOUT, 1, 0, b"good")


def plant(directory: Path, name: str, content: bytes) -> Path:
    (directory / "log").mkdir(exist_ok=True)
    (directory / "log" / name).write_bytes(content)
    return directory / "log" / name


NONSENSE = {
    "empty": b"",
    "zeros": bytes(10_000),
    "text": b"hello" * 100,
    "half a header": GOOD[:10],
    "half a record": GOOD[:-1],
    "huge length": record(STDOUT, 1, 0, b"x")[:20] + b"\xff\xff\xff\xff" + b"x" * 100,
    "far away": record(STDOUT, 1, MAX_POSITION, b"beyond"),
    "no such time": record(STDOUT, 2**64 - 1, 0, b"x"),
    "dropped nothing": record(DROPPED, 1, 0, bytes(8)),
    "dropped too much": record(DROPPED, 1, 0, b"\xff" * 8),
    "dropped by a mark of another size": record(DROPPED, 1, 0, b"x"),
}


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_passed_over_when_there_is_more(tmp_path: Path, content: bytes) -> None:
    plant(tmp_path, f"{0:020d}.log", content)
    reader = Reader(tmp_path)
    assert reader.read().records == []
    plant(tmp_path, f"{100:020d}.log", record(STDOUT, 1, 100, b"good"))
    reader.read()
    assert [(r.stream, r.position, r.end) for r in reader.records] == [
        (Stream.DROPPED, 0, 100),
        (Stream.STDOUT, 100, 104),
    ]
    reader.finish()


def test_what_was_before_the_nonsense_is_kept(tmp_path: Path) -> None:
    plant(tmp_path, f"{0:020d}.log", GOOD + b"nonsense" * 10)
    plant(tmp_path, f"{4:020d}.log", record(STDOUT, 1, 4, b" again"))
    reader = Reader(tmp_path)
    reader.finish()
    assert reader.text(Stream.STDOUT) == b"good again"


def test_positions_that_go_back_or_overlap_say_nothing_twice(tmp_path: Path) -> None:
    plant(tmp_path, f"{0:020d}.log", GOOD + record(STDOUT, 1, 2, b"od one") + record(STDOUT, 1, 0, b"old"))
    plant(tmp_path, f"{3:020d}.log", record(STDOUT, 1, 3, b"d one") + record(STDOUT, 1, 8, b"!"))
    reader = Reader(tmp_path)
    reader.finish()
    assert reader.text(Stream.STDOUT) == b"good one!"


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "socket", "closed"])
def test_only_plain_files_are_opened(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(GOOD)
    place = plant(tmp_path, f"{0:020d}.log", b"")
    place.unlink()
    if kind == "link":
        place.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    elif kind == "socket":
        os.mknod(place, 0o140600)
    else:
        place.symlink_to("/dev/zero")
    reader = Reader(tmp_path)
    reader.finish()
    assert reader.records == []
    plant(tmp_path, f"{4:020d}.log", record(STDOUT, 1, 4, b"good"))
    reader.finish()
    assert reader.text(Stream.STDOUT) == b"good" and outside.read_bytes() == GOOD


def test_the_directory_itself_may_be_a_link_or_no_directory(tmp_path: Path) -> None:
    plant(tmp_path, f"{0:020d}.log", GOOD)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log").symlink_to(tmp_path / "log")
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "log").write_bytes(b"")
    for name in ("other", "third", "missing"):
        reader = Reader(tmp_path / name)
        reader.finish()
        assert reader.records == []


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    plant(tmp_path, f"{0:020d}.log", GOOD)
    for name in ("mark.new", f"{MAX_POSITION + 1:020d}.log", f"{5:020d}.log.gz", "x" * 200, "٣" * 20 + ".log"):
        plant(tmp_path, name, GOOD)
    reader = Reader(tmp_path)
    reader.finish()
    assert reader.text(Stream.STDOUT) == b"good"
    assert len(numbered(tmp_path)) == 6


def test_a_segment_without_end_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    place = plant(tmp_path, f"{0:020d}.log", b"".join(record(STDOUT, 1, n * 60_000, b"x" * 60_000) for n in range(200)))
    with place.open("ab") as file:
        file.truncate(2**40)
    reader = Reader(tmp_path)
    while reader.read().full:
        pass
    assert reader.position == 200 * 60_000
    reader.finish()
