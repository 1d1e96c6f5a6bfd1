"""Told when a file in one of many directories was replaced: the kernel's inotify, for which Python has no module.

Who writes into the directories may be hostile: events are counted together, so that many cost little, and those that
the kernel could not keep make everything be looked at.
"""

import ctypes
import errno
import os
import select
import struct
import threading
from collections.abc import Callable
from pathlib import Path

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_MOVED_TO, _IGNORED, _OVERFLOW = 0x80, 0x8000, 0x4000
_READ_BYTES = 65_536
_REST_S = 0.005  # between two looks
_WAIT_S = 1.0

Key = tuple[str, int]  # what a directory is known by

_libc = ctypes.CDLL(None, use_errno=True)


class FileEvents:
    """One thread for all directories. `on_change` is called with what a directory was added as."""

    def __init__(self, on_change: Callable[[Key], None]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._watches: dict[int, Key] = {}
        self._stopped = threading.Event()
        self._descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def start(self) -> None:
        threading.Thread(target=self._run, name="files", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def add(self, directory: Path, key: Key) -> None:
        """Raises: OSError."""
        with self._lock:
            watch = _checked(_libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _MOVED_TO))
            self._watches[watch] = key

    def remove(self, key: Key) -> None:
        with self._lock:
            for watch in [watch for watch, known in self._watches.items() if known == key]:
                del self._watches[watch]
                _libc.inotify_rm_watch(self._descriptor, watch)  # gone already with its directory, maybe

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while not self._stopped.is_set():
            if poll.poll(_WAIT_S * 1000):
                for key in self._changed():
                    self._on_change(key)
                self._stopped.wait(_REST_S)

    def _changed(self) -> set[Key]:
        watches: set[int] = set()
        content, overflow, place = os.read(self._descriptor, _READ_BYTES), False, 0
        while place < len(content):
            watch, mask, _, length = _EVENT.unpack_from(content, place)
            place += _EVENT.size + length
            overflow |= bool(mask & _OVERFLOW)
            if not mask & _IGNORED:
                watches.add(watch)
        with self._lock:
            known = dict(self._watches)
        return set(known.values()) if overflow else {known[watch] for watch in watches if watch in known}


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"inotify: {errno.errorcode.get(number, number)}")
    return result
