"""Archives that attack whoever unpacks them, and one that does not."""

import stat
import zipfile
from pathlib import Path

import pytest

from node.task_runner.unpacking import Allowance, UnpackError, unpack


def archive(path: Path, **entries: bytes) -> str:
    with zipfile.ZipFile(path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return str(path / "a.zip")


def link(path: Path, name: str, to: str) -> str:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path / "a.zip", "w") as made:
        made.writestr("real.txt", "real")
        made.writestr(entry, to)
    return str(path / "a.zip")


def test_files_directories_and_permissions(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("bin/run")
    entry.external_attr = (stat.S_IFREG | 0o4755) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(entry, "x")
        made.writestr("empty/", "")
        made.writestr("./plain.txt", "text")
    unpack(str(tmp_path / "a.zip"), str(tmp_path / "to"), Allowance(1000))
    assert stat.S_IMODE((tmp_path / "to/bin/run").stat().st_mode) == 0o755  # and no set-user-id
    assert (tmp_path / "to/empty").is_dir() and (tmp_path / "to/plain.txt").read_text() == "text"


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "..\\out", "a/..", "C:\\out"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    made = archive(tmp_path, **{name: b"x"})
    with pytest.raises(UnpackError, match="no path within"):
        unpack(made, str(tmp_path / "to"), Allowance(1000))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["../out", "/etc/passwd", "a/../../out", "x" * 5000])
def test_links_that_lead_out_are_refused(tmp_path: Path, to: str) -> None:
    with pytest.raises(UnpackError, match="leads out"):
        unpack(link(tmp_path, "link", to), str(tmp_path / "to"), Allowance(1000))


def test_a_link_within_is_made(tmp_path: Path) -> None:
    unpack(link(tmp_path, "dir/link", "../real.txt"), str(tmp_path / "to"), Allowance(1000))
    assert (tmp_path / "to/dir/link").read_text() == "real"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """A link and a file below it, in the order that writes elsewhere if links are made at once."""
    (tmp_path / "elsewhere").mkdir()
    entry = zipfile.ZipInfo("d")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(entry, "../elsewhere")
        made.writestr("d/x", "x")
    with pytest.raises(UnpackError):
        unpack(str(tmp_path / "a.zip"), str(tmp_path / "to"), Allowance(1000))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    made = archive(tmp_path, bomb=bytes(50_000_000))
    assert Path(made).stat().st_size < 100_000
    with pytest.raises(UnpackError, match="larger than"):
        unpack(made, str(tmp_path / "to"), Allowance(5_000_000))
    assert sum(path.stat().st_size for path in (tmp_path / "to").rglob("*")) <= 6_000_000


def test_a_damaged_archive_is_an_error_in_words(tmp_path: Path) -> None:
    made = Path(archive(tmp_path, a=b"x" * 1000))
    content = bytearray(made.read_bytes())
    content[35] ^= 0xFF
    made.write_bytes(content)
    with pytest.raises(UnpackError):
        unpack(str(made), str(tmp_path / "to"), Allowance(10_000))
