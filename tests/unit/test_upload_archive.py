"""Archives that are uploaded: good ones pass, hostile ones are refused, and nothing else than a refusal comes out."""

import io
import os
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.uploads import archive
from api.uploads.archive import BadArchiveError, check

Change = Callable[[zipfile.ZipInfo], None]


def judge(content: bytes) -> None:
    check(io.BytesIO(content), len(content))


def packed(*entries: str | zipfile.ZipInfo, comment: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression=method) as made:
        made.comment = comment
        for entry in entries:
            made.writestr(entry, b"" if str(entry).endswith("/") else b"content" * 10)
    return file.getvalue()


def entry(name: str, *, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def flagged(content: bytes, *, bits: int) -> bytes:
    """With these bits in the directory's flags of the first entry."""
    at = content.rfind(b"PK\x01\x02")
    flags = struct.unpack_from("<H", content, at + 8)[0] | bits
    return content[: at + 8] + struct.pack("<H", flags) + content[at + 10 :]


@pytest.mark.parametrize(
    "content",
    [
        packed(),
        packed("a", "b/", "b/c", "b/d/e", "ä/ü"),
        packed("./", "./a", "x/.hidden", "..a/b..", method=zipfile.ZIP_STORED),
        packed(entry("run.sh", mode=stat.S_IFREG | 0o755), entry("d/", mode=stat.S_IFDIR | 0o755)),
        packed("a", comment=b"the commit that it is of"),
    ],
)
def test_archives_as_people_make_them_pass(content: bytes) -> None:
    judge(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no zip archive"),
        (b"PK\x05\x06", "no zip archive"),
        (b"x" * 100_000, "no zip archive"),
        (packed("a")[:-1], "no zip archive"),
        (packed("a") + b"behind", "behind its end"),
        (b"#!/bin/sh\n" + packed("a"), "not where its end says"),
        (packed("/etc/passwd"), "absolute"),
        (packed("a/../../b"), "leads out"),
        (packed(".."), "leads out"),
        (packed("a\\..\\b"), "character"),
        (packed("C:\\x"), "character"),
        (packed(entry("l", mode=stat.S_IFLNK | 0o777)), "link"),
        (packed(entry("f", mode=stat.S_IFIFO | 0o666)), "link"),
        (packed("a", "b", "./a"), "twice"),
        (packed("d/", "d//"), "twice"),
        (packed("a", "a/b"), "below a file"),
        (packed("."), "no name"),
        (packed("x" * 256), "too long"),
        (packed("/".join(["x" * 200] * 25)), "too long"),
        (flagged(packed("a"), bits=0x1), "encrypted"),
        (packed("a", method=zipfile.ZIP_BZIP2), "neither stored nor deflated"),
    ],
)
def test_others_are_refused_with_the_reason(content: bytes, words: str) -> None:
    with pytest.raises(BadArchiveError, match=words):
        judge(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_comes_once() -> None:
    with pytest.raises(BadArchiveError, match="twice"):
        judge(packed("a", "a"))


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed("a", "b", "c")
    for bound in ("MAX_ENTRIES", "MAX_DIRECTORY_BYTES", "MAX_UNPACKED_BYTES"):
        with monkeypatch.context() as changed:
            changed.setattr(archive, bound, 2)
            with pytest.raises(BadArchiveError, match="more than"):
                judge(content)


def test_entries_that_share_bytes_are_refused() -> None:
    """As a bomb has them: two entries of the directory, both at the bytes of the first."""
    content = packed("a", "b")
    second = content.rfind(b"PK\x01\x02")
    with pytest.raises(BadArchiveError, match="lies in another"):
        judge(content[: second + 42] + struct.pack("<L", 0) + content[second + 46 :])


def test_a_directory_of_another_length_than_it_says_is_refused() -> None:
    content = packed("a", "b")
    end = content.rfind(b"PK\x05\x06")
    with pytest.raises(BadArchiveError, match="2 entries and says 1"):
        judge(content[: end + 8] + struct.pack("<HH", 1, 1) + content[end + 12 :])


NAMES = st.lists(st.text(st.sampled_from("ab./\\ä "), min_size=1, max_size=12), unique=True, max_size=5)
MODES = st.sampled_from([0, stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777])
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Archives of odd names, many with some bytes changed, cut out or put in."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression=draw(METHODS)) as made:
        for name in draw(NAMES):
            made.writestr(entry(name, mode=draw(MODES)), draw(st.binary(max_size=20)))
    content = bytearray(file.getvalue())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(content)


@settings(max_examples=1500, deadline=None)
@given(archives())
def test_what_passes_unpacks_below_its_folder_and_all_else_is_a_refusal(content: bytes) -> None:
    try:
        judge(content)
    except BadArchiveError:
        return
    with tempfile.TemporaryDirectory() as scratch:
        inside = Path(scratch, "inside")
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            for info in opened.infolist():
                try:
                    where = Path(opened.extract(info, inside))
                except (
                    zipfile.BadZipFile,
                    zipfile.zlib.error,
                    EOFError,
                    NotImplementedError,
                    RuntimeError,
                    ValueError,
                ):
                    continue  # the entry itself is damaged
                assert where.resolve().is_relative_to(inside.resolve())
                assert where == inside / os.path.normpath(info.filename)
        assert {path.name for path in Path(scratch).iterdir()} <= {"inside"}
        assert not [path for path in inside.rglob("*") if path.is_symlink()]
