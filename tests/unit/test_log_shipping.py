"""Output on its way: in order, nothing lost or doubled whatever breaks, fair between attempts, and to the end."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from node.daemon import log_shipping
from node.daemon.log_shipping import LogShipping, LogSource
from node.platform import AttemptOverError, LogPositionError, PlatformUnavailableError
from node.task_runner.output import STDOUT, Output
from scheduler.log_records import Record, Stream, unpack_run


@dataclass
class KeepingPlatform:
    """Takes chunks as the platform does. `away`, `forgetful` and `slow_s` are its faults."""

    away: bool = False
    loses_answers: bool = False  # it takes what it is sent, and its answer is lost
    knows_nothing: bool = False
    slow_s: float = 0.0
    records: dict[str, list[Record]] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    turns: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    gate: threading.Event = field(default_factory=threading.Event)

    def log(
        self, allocation_uid: str, generation: int, *, rank: int, position: int, length: int, records: bytes, last: bool
    ) -> None:
        if self.slow_s:
            self.gate.wait(self.slow_s)
        with self.lock:
            if self.away:
                raise PlatformUnavailableError("away")
            if self.knows_nothing:
                raise AttemptOverError("no such attempt")
            kept = self.records.setdefault(allocation_uid, [])
            expected = kept[-1].end if kept else 0
            if position != expected or allocation_uid in self.whole:
                raise LogPositionError(expected, whole=allocation_uid in self.whole)
            content = zstandard.ZstdDecompressor().decompress(records) if records else b""
            kept += unpack_run(content, position)
            assert (kept[-1].end if kept else 0) == position + length
            self.turns.append(allocation_uid)
            if last:
                self.whole.add(allocation_uid)
            if self.loses_answers:
                raise PlatformUnavailableError("the answer was lost")

    def text(self, uid: str) -> bytes:
        with self.lock:
            return b"".join(record.data for record in self.records.get(uid, ()))

    def dropped(self, uid: str) -> int:
        with self.lock:
            return sum(record.dropped for record in self.records[uid])


@dataclass
class Bench:
    platform: KeepingPlatform
    directory: Path
    shipping: LogShipping

    def source(self, uid: str) -> LogSource:
        return LogSource(uid, 1, 0, self.directory / uid)

    def output(self, uid: str, **sizes: int) -> Output:
        output = Output(str(self.directory / uid / "log"), **sizes)
        self.shipping.attend(self.source(uid))
        return output

    def finish(self, *uids: str) -> None:
        done = {uid: threading.Event() for uid in uids}
        for uid in uids:
            self.shipping.finish(self.source(uid), done[uid].set)
        assert all(event.wait(30) for event in done.values())

    def begin_again(self) -> None:
        """As a daemon that was killed and started again."""
        self.shipping.stop()
        self.shipping = LogShipping(self.platform)
        self.shipping.start()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(log_shipping, "EVERY_S", 0.02)
    monkeypatch.setattr(log_shipping, "_FIRST_RETRY_S", 0.02)
    platform = KeepingPlatform()
    bench = Bench(platform, tmp_path, LogShipping(platform))
    bench.shipping.start()
    yield bench
    platform.gate.set()
    bench.shipping.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_what_is_written_arrives_while_it_is_written(bench: Bench) -> None:
    output = bench.output("a")
    expected = b""
    for number in range(5):
        output.write(STDOUT, f"line {number}\n".encode(), number * 1000)
        expected += f"line {number}\n".encode()
        until(lambda: bench.platform.text("a") == expected)  # noqa: B023 - it is called at once
    assert "a" not in bench.platform.whole
    output.close(9999)
    bench.finish("a")
    assert bench.platform.text("a") == expected and "a" in bench.platform.whole
    assert bench.shipping.waiting() == 0


def test_what_is_held_back_waits_until_the_end(bench: Bench) -> None:
    held: list[int | None] = [6]
    output = bench.output("a")
    bench.shipping.attend(bench.source("a"), lambda: held[0])
    output.write(STDOUT, b"first\nsecond\nthird\n", 0)
    until(lambda: bench.platform.text("a") == b"first\n")
    other = bench.output("b")
    for number in range(5):  # it has its turns meanwhile
        other.write(STDOUT, b"x", number * 1000)
        until(lambda: bench.platform.text("b") == b"x" * (number + 1))  # noqa: B023 - it is called at once
    assert bench.platform.turns.count("a") == 1
    held[0] = 13
    until(lambda: bench.platform.text("a") == b"first\nsecond\n")
    bench.finish("a")
    assert bench.platform.text("a") == b"first\nsecond\nthird\n"


def test_an_attempt_that_wrote_nothing_or_never_began_ends_too(bench: Bench) -> None:
    bench.output("a")
    bench.finish("a", "never-began")
    assert bench.platform.whole == {"a", "never-began"}


def test_while_the_platform_is_away_the_ring_keeps_what_fits(bench: Bench) -> None:
    bench.platform.away = True
    output = bench.output("a", segment_bytes=10_000, ring_bytes=50_000)
    written = b"".join(f"{number:09d}\n".encode() for number in range(20_000))
    for start in range(0, len(written), 1000):
        output.write(STDOUT, written[start : start + 1000], start)
    on_disk = sum(path.stat().st_size for path in (bench.directory / "a" / "log").iterdir())
    assert on_disk <= 60_000
    output.close(0)
    bench.platform.away = False
    bench.finish("a")
    records = bench.platform.records["a"]
    assert records[-1].end == len(written) and bench.platform.dropped("a") > 100_000
    assert all(r.stream is Stream.DROPPED or written[r.position : r.end] == r.data for r in records)
    assert written.endswith(records[-1].data) and sum(len(r.data) for r in records) > 30_000


def test_answers_that_are_lost_double_nothing(bench: Bench) -> None:
    output = bench.output("a")
    bench.platform.loses_answers = True
    for number in range(100):
        output.write(STDOUT, b"%03d\n" % number, number * 100)
        if number % 10 == 0:
            until(lambda: bench.platform.text("a") != b"")
    bench.platform.loses_answers = False
    output.close(0)
    bench.finish("a")
    assert bench.platform.text("a") == b"".join(b"%03d\n" % number for number in range(100))


def test_a_daemon_that_starts_again_goes_on_where_it_was(bench: Bench) -> None:
    output = bench.output("a", segment_bytes=500)
    for number in range(300):
        output.write(STDOUT, b"%06d\n" % number, number * 100)
        if number % 60 == 59:
            bench.begin_again()
            bench.shipping.attend(bench.source("a"))
    output.close(0)
    bench.begin_again()  # after its end, and with nobody who attends to it
    bench.finish("a")
    assert bench.platform.text("a") == b"".join(b"%06d\n" % number for number in range(300))
    assert bench.platform.dropped("a") == 0
    bench.begin_again()  # all was shipped, but the directory had not gone yet
    bench.finish("a")


def test_output_that_nobody_keeps_holds_up_nothing(bench: Bench) -> None:
    output = bench.output("a")
    bench.platform.knows_nothing = True
    output.write(STDOUT, b"text", 0)
    output.close(0)
    bench.finish("a")
    assert bench.shipping.waiting() == 0


def test_a_loud_attempt_does_not_keep_quiet_ones_waiting(tmp_path: Path) -> None:
    platform = KeepingPlatform(slow_s=0.01)
    bench = Bench(platform, tmp_path, LogShipping(platform, threads=1))
    loud = bench.output("loud")
    for _ in range(15):
        loud.write(STDOUT, bytes(4 * 2**20 - 100), 0)
    for number in range(20):
        bench.output(f"quiet-{number}").write(STDOUT, b"hello", 0)
    bench.shipping.start()
    until(lambda: all(platform.text(f"quiet-{number}") == b"hello" for number in range(20)))
    assert platform.turns.count("loud") <= 3
    until(lambda: len(platform.text("loud")) == 15 * (4 * 2**20 - 100))
    bench.shipping.stop()


def test_an_error_in_one_log_is_its_own(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def breaks() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("the directory can't be removed")

    bench.output("a")
    bench.shipping.finish(bench.source("a"), breaks)
    bench.output("b").write(STDOUT, b"text", 0)
    bench.finish("b")
    until(lambda: bench.shipping.waiting() == 0)
    assert len(tries) == 3 and bench.platform.text("b") == b"text"
    assert "can't be removed" in caplog.text
