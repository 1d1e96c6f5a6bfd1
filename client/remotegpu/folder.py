"""A folder as it is uploaded: which files of it, and one archive for one content, whatever machine it lies on."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from remotegpu.errors import RemoteGpuError
from remotegpu.ignoring import OURS, Rules

MAX_BYTES = 100 * 2**20
"""The largest archive that the platform takes, by default."""

MAX_ENTRIES = 50_000
"""The most files that it takes in an archive."""

_NAMED = 5  # of the largest files
_MODES = 0o755  # what others may write is a matter of the machine, not of the content
_EPOCH = (1980, 1, 1, 0, 0, 0)
_OVERHEAD = 30 + 46  # bytes for each entry, beside twice its name: its headers in a zip archive
_END = 22
_ADVICE = f"Name what is not needed in {OURS}; data belongs in a volume."
_BLOCK = 2**20
_NEVER = ".git"


class BadFolder(RemoteGpuError):
    """The folder can't be uploaded as it is; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`name` is its path in the archive, with a slash at the end for an empty folder. `size` is in bytes."""

    name: str
    path: Path
    size: int
    mode: int

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


def entries(folder: Path) -> list[Entry]:
    """What is uploaded of a folder, by name.

    Left out: what the ignore files say, every `.git`, sockets, pipes and devices. A link to a file of the folder
    becomes a file.

    Raises:
        BadFolder: it is none, or has a link to elsewhere or to a folder, or a name that is no text.
    """
    if not folder.is_dir():
        raise BadFolder(f"{folder} is no folder, or can't be read.")
    root = folder.resolve()
    rules, base = _rules_above(root)
    try:
        return sorted(_walk(root, root, rules, base), key=lambda entry: entry.name.encode())
    except OSError as error:
        raise BadFolder(f"{error.filename or folder} can't be read: {error.strerror}.") from error


def check_size(found: Sequence[Entry], *, limit: int = MAX_BYTES) -> int:
    """The bytes of the archive.

    Raises:
        BadFolder: they are more than `limit`, and the message names the largest files; or there are too many files.
    """
    if len(found) > MAX_ENTRIES:
        raise BadFolder(f"The folder has {len(found)} files, and {MAX_ENTRIES} are taken at most. {_ADVICE}")
    total = sum(entry.size + _OVERHEAD + 2 * len(entry.name.encode()) for entry in found) + _END
    if total <= limit:
        return total
    largest = sorted(found, key=lambda entry: (-entry.size, entry.name))[:_NAMED]
    named = "".join(f"\n  {_mebibytes(entry.size):>11}  {entry.name}" for entry in largest if entry.size)
    raise BadFolder(
        f"The folder has {_mebibytes(total)}, and {_mebibytes(limit)} are taken at most. "
        f"The largest files:{named}\n{_ADVICE}"
    )


def write_archive(found: Sequence[Entry], target: IO[bytes]) -> str:
    """Write a zip archive from the target's begin; the SHA-256 of its bytes, hexadecimal.

    Nothing is compressed: what compresses writes other bytes from one version to the next, and equal folders would no
    longer have equal archives.

    Raises:
        BadFolder: a file went away or can't be read.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for entry in found:
            about = zipfile.ZipInfo(entry.name, date_time=_EPOCH)
            about.create_system = 3  # Unix, on every system
            about.external_attr = entry.mode << 16 | (0x10 if entry.is_folder else 0)
            archive.writestr(about, b"" if entry.is_folder else _content(entry.path))
    target.seek(0)
    digest = hashlib.sha256()
    while block := target.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _rules_above(root: Path) -> tuple[Rules, bytes]:
    """The ignore files above the folder, up to the top of the git repository that it is in, and its path there."""
    rules = Rules()
    above = [root, *root.parents]
    top = next((place for place, each in enumerate(above) if (each / _NEVER).exists()), 0)
    base = b""
    for each, below in zip(reversed(above[1 : top + 1]), reversed(above[:top]), strict=True):
        rules = rules.within(each, base)
        base += os.fsencode(below.name) + b"/"
    return rules, base


def _walk(root: Path, folder: Path, rules: Rules, base: bytes) -> Iterator[Entry]:
    rules = rules.within(folder, base)
    with os.scandir(folder) as listing:
        listed = [each for each in listing if each.name != _NEVER]
    for each in listed:
        path, name = Path(each.path), base + os.fsencode(each.name)
        is_folder = each.is_dir(follow_symlinks=False)
        if rules.leave_out(name, is_folder=is_folder):
            continue
        if not is_folder:
            yield from _file(root, path)
        elif _is_empty(path):
            yield Entry(_name(root, path) + "/", path, 0, stat.S_IFDIR | 0o755)
        else:
            yield from _walk(root, path, rules, name + b"/")


def _is_empty(folder: Path) -> bool:
    with os.scandir(folder) as listing:
        return next(listing, None) is None


def _file(root: Path, path: Path) -> Iterator[Entry]:
    if path.is_symlink():
        _check_link(root, path)
    about = path.stat()
    if stat.S_ISREG(about.st_mode):
        yield Entry(_name(root, path), path, about.st_size, stat.S_IFREG | about.st_mode & _MODES)


def _check_link(root: Path, path: Path) -> None:
    name = _name(root, path)
    advice = f"Name it in {OURS}, or put the file itself there."
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise BadFolder(f"{name} is a link that leads nowhere. {advice}") from error
    if root not in target.parents or _NEVER in target.relative_to(root).parts:
        raise BadFolder(f"{name} is a link out of the folder, to {target}. {advice}")
    if target.is_dir():
        raise BadFolder(f"{name} is a link to a folder. {advice}")


def _name(root: Path, path: Path) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BadFolder(f"The name {name!r} is no UTF-8 text, which an archive takes only.") from error
    if "\\" in name:
        raise BadFolder(f"The name {name!r} has a backslash, which an archive must not have.")
    return name


def _content(path: Path) -> bytes:
    # What has become a pipe since it was listed is not waited for.
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadFolder(f"{path} can't be read: {error.strerror}.") from error


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
