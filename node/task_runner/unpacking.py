"""Uploaded archives become directories: nothing is written outside of them, and no more than is allowed."""

from __future__ import annotations

import os
import stat
import zipfile

MOST_ENTRIES = 200_000
_CHUNK = 2**20


class UnpackError(Exception):
    """The archive can't be unpacked here; the message says why."""


class Allowance:
    """What all archives of a task may take together."""

    def __init__(self, most_bytes: int) -> None:
        self._bytes, self._entries = most_bytes, MOST_ENTRIES

    def take(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise UnpackError("unpacked, it is larger than the task's disk")

    def take_entry(self) -> None:
        self._entries -= 1
        if self._entries < 0:
            raise UnpackError(f"it has more than {MOST_ENTRIES} entries")


def unpack(archive: str, target: str, allowance: Allowance) -> None:
    """Unpack a zip archive into a directory, which is made where it may be.

    Raises:
        UnpackError
    """
    try:
        os.makedirs(target, exist_ok=True)
        with zipfile.ZipFile(archive) as opened:
            links = []
            for entry in opened.infolist():
                allowance.take_entry()
                path = _place(target, entry.filename)
                if stat.S_ISLNK(entry.external_attr >> 16):
                    links.append((path, entry))
                else:
                    _write(opened, entry, path, allowance)
            # Last, so that nothing is written through one.
            for path, entry in links:
                _link(opened, entry, path, target)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UnpackError(str(error)) from error


def _place(target: str, name: str) -> str:
    """Where an entry goes. Raises: UnpackError, for one that would be elsewhere than in the target."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise UnpackError(f"{name!r} is no path within it")
    return os.path.join(target, *parts)


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: str, allowance: Allowance) -> None:
    if entry.is_dir():
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    permissions = (entry.external_attr >> 16) & 0o777
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with opened.open(entry) as source, open(os.open(path, flags, 0o644), "wb") as file:
        while True:
            chunk = source.read(_CHUNK)
            if not chunk:
                break
            allowance.take(len(chunk))
            file.write(chunk)
        if permissions:
            os.fchmod(file.fileno(), permissions | stat.S_IRUSR | stat.S_IWUSR)


def _link(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: str, target: str) -> None:
    """Only to what is in the target, and relative, so that it stays true where the target is moved."""
    to = opened.read(entry).decode() if entry.file_size <= 4096 else "/"
    here = os.path.dirname(path)
    root = os.path.realpath(target)
    end = os.path.realpath(os.path.join(here, to))
    if os.path.isabs(to) or os.path.commonpath([root, end]) != root:
        raise UnpackError(f"the link {entry.filename!r} leads out of it")
    os.makedirs(here, exist_ok=True)
    if os.path.islink(path):
        os.unlink(path)
    os.symlink(to, path)
