"""Uploads that tasks need, kept on the host by customer and content, so that each is downloaded once.

An attempt's directory holds a link to each file that it was given: so a file with more than one name is in use. What
is not, goes when there is no room, the longest unused first.
"""

import hashlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.platform import Platform
from scheduler.host_protocol import Archive

_JUST_USED_S = 600.0  # whoever was given it may not have made a link yet
_ROOT_ONLY = 0o700
_UNFINISHED = ".new"
_CUSTOMER, _DIGEST = re.compile(r"[A-Za-z0-9-]{1,64}"), re.compile(r"[0-9a-f]{64}")


class DamagedArchiveError(OSError):
    """What came is not what was uploaded, or nothing that can have been."""


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    size_bytes: int
    used_at: float  # seconds of the wall clock
    in_use: bool


class Archives:
    """Below `root`, which is root's alone; for many threads. More than `max_bytes` is kept only of what is in use."""

    def __init__(self, root: Path, platform: Platform, *, max_bytes: int) -> None:
        self._root, self._platform, self._max_bytes = root, platform, max_bytes
        self._fetching: dict[Path, threading.Lock] = {}
        self._wanted: Counter[Path] = Counter()  # how many wait for each of the above, or have it
        self._lock = threading.Lock()  # of the two above
        self._room = threading.Lock()  # one at a time removes
        root.mkdir(mode=_ROOT_ONLY, parents=True, exist_ok=True)
        root.chmod(_ROOT_ONLY)
        for unfinished in root.glob(f"*/*{_UNFINISHED}"):
            unfinished.unlink()

    def fetch(self, customer_uid: str, archive: Archive, allocation_uid: str, generation: int) -> Path:
        """Where the upload lies on this host, checked. It stays for ten minutes at least: link it by then.

        Raises:
            AttemptOverError: the platform does not give it to this attempt.
            PlatformUnavailableError: it could not be fetched now.
            OSError: it came damaged, or can't be kept here.
        """
        if not (_CUSTOMER.fullmatch(customer_uid) and _DIGEST.fullmatch(archive.digest)):
            raise DamagedArchiveError(f"{customer_uid!r} and {archive.digest!r} name no upload")
        path = self._root / customer_uid / f"{archive.digest}.zip"
        with self._alone(path):
            if not _is_there(path, archive.size_bytes):
                self._make_room(archive.size_bytes)
                self._download(path, archive, allocation_uid, generation)
            os.utime(path)
        return path

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Others who want the same wait; then it is there, or they try themselves, each for its own attempt."""
        with self._lock:
            lock = self._fetching.setdefault(path, threading.Lock())
            self._wanted[path] += 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._wanted[path] -= 1
                if not self._wanted[path]:
                    del self._wanted[path], self._fetching[path]

    def _download(self, path: Path, archive: Archive, allocation_uid: str, generation: int) -> None:
        path.parent.mkdir(mode=_ROOT_ONLY, exist_ok=True)
        temporary = path.with_suffix(_UNFINISHED)
        hashed, size_bytes = hashlib.sha256(), 0
        try:
            with temporary.open("wb") as file:

                def take(piece: bytes) -> None:
                    nonlocal size_bytes
                    size_bytes += len(piece)
                    if size_bytes > archive.size_bytes:
                        raise DamagedArchiveError(f"the upload {archive.digest} came larger than it is")
                    hashed.update(piece)
                    file.write(piece)

                self._platform.archive(allocation_uid, generation, archive.digest, take)
                file.flush()
                os.fsync(file.fileno())
            if size_bytes != archive.size_bytes or hashed.hexdigest() != archive.digest:
                raise DamagedArchiveError(f"the upload {archive.digest} came damaged")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size_bytes: int) -> None:
        with self._room:
            kept = list(self._kept())
            excess = sum(each.size_bytes for each in kept) + size_bytes - self._max_bytes
            latest = time.time() - _JUST_USED_S
            for each in sorted(kept, key=lambda each: each.used_at):
                if excess > 0 and not each.in_use and each.used_at < latest:
                    each.path.unlink(missing_ok=True)
                    excess -= each.size_bytes

    def _kept(self) -> Iterator[_Kept]:
        for path in self._root.glob("*/*.zip"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield _Kept(path, found.st_size, found.st_mtime, in_use=found.st_nlink > 1)


def _is_there(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False
