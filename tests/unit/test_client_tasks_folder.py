"""The archive of a folder: the same bytes for the same content, and nothing in it that was not meant."""

import hashlib
import os
import socket
import stat
import tempfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.uploads.archive import check
from remotegpu.folder import MAX_ENTRIES, BadFolder, Entry, check_size, entries, write_archive


def archive(folder: Path) -> tuple[str, zipfile.ZipFile]:
    target = BytesIO()
    found = entries(folder)
    digest = write_archive(found, target)
    assert digest == hashlib.sha256(target.getvalue()).hexdigest()
    assert check_size(found) == len(target.getvalue())
    check(target, len(target.getvalue()))  # as the platform does
    return digest, zipfile.ZipFile(target)


def sample(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"this is {name}")
    return folder


def test_an_archive_is_the_same_wherever_and_whenever_it_is_made(tmp_path: Path) -> None:
    names = ["train.py", "lib/é.py", "lib/a.py", "z"]
    here, there = sample(tmp_path / "here", names), sample(tmp_path / "there", names[::-1])
    for number, each in enumerate(there.rglob("*")):
        each.chmod(each.stat().st_mode | stat.S_IWGRP)  # as with another umask
        os.utime(each, (number, number))
    assert archive(here)[0] == archive(there)[0]
    assert archive(here)[0] == "8848fcb377175beb9c8f53eaf7a4c1dd611537b1d285a01dff9df0d306f81e89", (
        "whoever has this content has this archive"
    )


def test_content_name_and_mode_make_another_archive(tmp_path: Path) -> None:
    folder = sample(tmp_path, ["run.sh"])
    seen = {archive(folder)[0]}
    (folder / "run.sh").chmod(0o755)
    seen.add(archive(folder)[0])
    (folder / "run.sh").rename(folder / "go.sh")
    seen.add(archive(folder)[0])
    (folder / "go.sh").write_text("other")
    seen.add(archive(folder)[0])
    (folder / "empty").mkdir()
    seen.add(archive(folder)[0])
    assert len(seen) == 5


@given(st.dictionaries(st.text("ab/.é", min_size=1, max_size=5), st.binary(max_size=20), max_size=5))
def test_what_is_packed_comes_out(contents: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder, kept = Path(made), dict[str, bytes]()
        for name, content in contents.items():
            parts = [part for part in name.split("/") if part and not part.startswith(".")]
            path = folder.joinpath(*parts)
            if parts and not path.exists() and not any(parent.is_file() for parent in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                kept[path.relative_to(folder).as_posix()] = content
        _, found = archive(folder)
        assert {each: found.read(each) for each in found.namelist()} == kept


def test_modes_are_kept(tmp_path: Path) -> None:
    folder = sample(tmp_path, ["run.sh", "key", "plain"])
    (folder / "run.sh").chmod(0o775)
    (folder / "key").chmod(0o600)
    (folder / "plain").chmod(0o4664)
    _, found = archive(folder)
    modes = {each.filename: each.external_attr >> 16 for each in found.infolist()}
    assert modes == {"run.sh": 0o100755, "key": 0o100600, "plain": 0o100644}


def test_git_and_what_is_no_file_stays_out(tmp_path: Path) -> None:
    folder = sample(tmp_path, ["x", ".git/config", "sub/.git/config", "lib/.git"])
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        assert [entry.name for entry in entries(folder)] == ["x"]


def test_a_link_to_a_file_of_the_folder_becomes_a_file(tmp_path: Path) -> None:
    folder = sample(tmp_path, ["lib/a.py"])
    (folder / "b.py").symlink_to("lib/a.py")
    (folder / "c.py").symlink_to(folder / "b.py")
    _, found = archive(folder)
    assert found.read("b.py") == found.read("c.py") == b"this is lib/a.py"
    assert found.getinfo("b.py").external_attr >> 16 == 0o100644


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: (folder / "bad").symlink_to("/etc/passwd"), "bad is a link out of the folder, to /etc/passwd"),
        (lambda folder: (folder / "bad").symlink_to("../beside/x"), "bad is a link out of the folder"),
        (lambda folder: (folder / "bad").symlink_to(".git/config"), "bad is a link out of the folder"),
        (lambda folder: (folder / "bad").symlink_to("lib"), "bad is a link to a folder"),
        (lambda folder: (folder / "bad").symlink_to("none"), "bad is a link that leads nowhere"),
        (lambda folder: (folder / "bad").symlink_to("bad"), "bad is a link that leads nowhere"),
        (lambda folder: (folder / os.fsdecode(b"bad\xff")).touch(), "no UTF-8 text"),
        (lambda folder: (folder / "bad\\name").touch(), "has a backslash"),
    ],
)
def test_what_can_not_be_uploaded_is_named(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    folder = sample(tmp_path / "it", ["lib/a.py", ".git/config"])
    sample(tmp_path / "beside", ["x"])
    make(folder)
    with pytest.raises(BadFolder, match=said):
        entries(folder)
    (folder / ".remotegpuignore").write_text("bad*")
    assert "lib/a.py" in {entry.name for entry in entries(folder)}, "ignored, it does no harm"


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFolder, match="missing is no folder"):
        entries(tmp_path / "missing")


def test_too_large_a_folder_is_told_with_its_largest_files(tmp_path: Path) -> None:
    folder = sample(tmp_path, ["small"])
    for place in range(1, 8):
        with (folder / f"data{place}").open("wb") as file:
            file.truncate(place * 2**20)
    found = entries(folder)
    assert check_size(found) > 28 * 2**20
    with pytest.raises(BadFolder) as refused:
        check_size(found, limit=20 * 2**20)
    said = str(refused.value)
    assert "28.0 MiB, and 20.0 MiB" in said
    assert [line.split()[-1] for line in said.splitlines()[1:-1]] == ["data7", "data6", "data5", "data4", "data3"]
    assert ".remotegpuignore" in said


def test_too_many_files_are_refused() -> None:
    with pytest.raises(BadFolder, match="50001 files, and 50000"):
        check_size([Entry("x", Path("x"), 0, 0)] * (MAX_ENTRIES + 1))
