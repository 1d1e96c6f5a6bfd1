"""A host's cache of uploads: each is downloaded once, checked, and kept while there is room or somebody uses it."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from node.daemon.archives import Archives, DamagedArchiveError
from node.platform import AttemptOverError, Platform, PlatformUnavailableError
from scheduler.host_protocol import Archive

FIRST, SECOND, THIRD = b"1" * 100, b"2" * 100, b"3" * 100
HOUR_S = 3600.0


@dataclass
class Source:
    """Stands for the platform. `broken` are the errors that it answers with first, one each."""

    contents: dict[str, bytes] = field(default_factory=dict)
    broken: list[Exception] = field(default_factory=list)
    asked: list[tuple[str, int, str]] = field(default_factory=list)
    pause: threading.Event | None = None

    def archive(self, allocation_uid: str, generation: int, digest: str, take: Callable[[bytes], None]) -> None:
        self.asked.append((allocation_uid, generation, digest))
        content = self.contents[digest]
        take(content[:30])
        if self.pause is not None:
            assert self.pause.wait(20)
        if self.broken:
            raise self.broken.pop(0)
        take(content[30:])


@pytest.fixture
def source() -> Source:
    return Source({hashlib.sha256(each).hexdigest(): each for each in (FIRST, SECOND, THIRD)})


@pytest.fixture
def archives(tmp_path: Path, source: Source) -> Archives:
    """With room for two."""
    return make(tmp_path, source)


def make(tmp_path: Path, source: Source) -> Archives:
    return Archives(tmp_path / "archives", cast(Platform, source), max_bytes=200)


def fetch(archives: Archives, content: bytes, *, customer: str = "c-1", allocation: str = "a-1", **wrong: Any) -> Path:
    fields = {"digest": hashlib.sha256(content).hexdigest(), "size_bytes": len(content), "target": "", **wrong}
    return archives.fetch(customer, Archive(**fields), allocation, 3)


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "archives").rglob("*") if path.is_file()]


def age(*paths: Path) -> None:
    """Unused since, the first for the longest time."""
    for hours, path in enumerate(reversed(paths), start=1):
        at = time.time() - hours * HOUR_S
        os.utime(path, (at, at))


def test_it_is_downloaded_once_and_for_each_customer(archives: Archives, source: Source, tmp_path: Path) -> None:
    path = fetch(archives, FIRST)
    assert path.read_bytes() == FIRST
    assert fetch(archives, FIRST, allocation="a-2") == path
    assert source.asked == [("a-1", 3, hashlib.sha256(FIRST).hexdigest())]
    other = fetch(archives, FIRST, customer="c-2", allocation="a-9")
    assert other != path and len(source.asked) == 2, "another customer's is no proof that this one may have it"
    assert fetch(make(tmp_path, source), FIRST) == path and len(source.asked) == 2, "the next daemon finds it"
    for directory in (tmp_path / "archives", path.parent, other.parent):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_many_at_once_download_once(archives: Archives, source: Source) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda number: fetch(archives, FIRST, allocation=f"a-{number}"), range(8)))
    assert len(set(paths)) == 1 and len(source.asked) == 1


def test_who_waited_tries_itself_when_the_download_fails(archives: Archives, source: Source) -> None:
    """The lease of the one that downloads may just have ended: the others have their own."""
    source.pause, source.broken = threading.Event(), [AttemptOverError("over")]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, archives, FIRST, allocation="a-1")
        while not source.asked:
            time.sleep(0.001)
        second = pool.submit(fetch, archives, FIRST, allocation="a-2")
        source.pause.set()
        with pytest.raises(AttemptOverError):
            first.result(20)
        assert second.result(20).read_bytes() == FIRST
    assert [allocation for allocation, _, _ in source.asked] == ["a-1", "a-2"]


@pytest.mark.parametrize("wrong", [{"size_bytes": 99}, {"size_bytes": 101}])
def test_another_size_is_refused(archives: Archives, tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DamagedArchiveError):
        fetch(archives, FIRST, **wrong)
    assert files(tmp_path) == []


def test_other_bytes_are_refused(archives: Archives, source: Source, tmp_path: Path) -> None:
    source.contents[hashlib.sha256(FIRST).hexdigest()] = SECOND
    with pytest.raises(DamagedArchiveError):
        fetch(archives, FIRST)
    assert files(tmp_path) == []


@pytest.mark.parametrize("fields", [{"customer": "../c"}, {"customer": ""}, {"digest": "../x"}, {"digest": "A" * 64}])
def test_names_lead_nowhere_else(archives: Archives, source: Source, fields: dict[str, str]) -> None:
    with pytest.raises(DamagedArchiveError):
        fetch(archives, FIRST, **fields)
    assert source.asked == []


def test_what_a_killed_daemon_left_is_cleared(archives: Archives, source: Source, tmp_path: Path) -> None:
    source.broken = [PlatformUnavailableError("away")]
    with pytest.raises(PlatformUnavailableError):
        fetch(archives, FIRST)
    assert files(tmp_path) == []
    path = fetch(archives, FIRST)
    half = path.with_suffix(".new")
    half.write_bytes(b"half")
    path.write_bytes(FIRST[:50])  # as a filesystem may leave it
    assert fetch(make(tmp_path, source), FIRST).read_bytes() == FIRST
    assert files(tmp_path) == [path]


def test_the_longest_unused_goes(archives: Archives, tmp_path: Path) -> None:
    first, second = fetch(archives, FIRST), fetch(archives, SECOND, customer="c-2")
    age(second, first)
    third = fetch(archives, THIRD)
    assert sorted(files(tmp_path)) == sorted([first, third])
    age(first, third)
    fetch(archives, FIRST)  # used again
    second = fetch(archives, SECOND)
    assert sorted(files(tmp_path)) == sorted([first, second])


def test_what_is_in_use_stays(archives: Archives, tmp_path: Path) -> None:
    first, second = fetch(archives, FIRST), fetch(archives, SECOND)
    link = tmp_path / "link"
    os.link(first, link)
    age(first, second)
    third = fetch(archives, THIRD)
    assert sorted(files(tmp_path)) == sorted([first, third])
    link.unlink()
    age(first)
    fetch(archives, SECOND)
    assert not first.exists()


def test_what_was_just_given_out_stays(archives: Archives, tmp_path: Path) -> None:
    """Nobody has linked it yet."""
    for content in (FIRST, SECOND, THIRD):
        fetch(archives, content)
    assert len(files(tmp_path)) == 3
