"""Folders that tasks work in: packed here, and sent unless the platform has the same content already."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from remotegpu.folder import check_size, entries, write_archive
from remotegpu.transport import Transport

_PATH = "/customer/uploads"
_BLOCK = 2**18
_IN_MEMORY = 8 * 2**20

OnSent = Callable[[int, int], None]
"""Called with the bytes sent so far and all there are."""


class Uploads:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def folder(self, folder: Path, *, on_sent: OnSent | None = None) -> str:
        """The digest by which a task names the folder's content; it is sent if it is not there.

        What `.gitignore` and `.remotegpuignore` name stays here, and so does `.git`.

        Raises:
            BadFolder: it can't be uploaded, or is too large.
            Refused: it is larger than this platform takes.
        """
        found = entries(folder)
        check_size(found)
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as archive:
            digest = write_archive(found, archive)
            path = f"{_PATH}/{digest}"
            if not self._transport.exists(path):
                content = _Content(archive, on_sent)
                self._transport.put_content(path, content, size=content.size, media_type="application/zip")
        return digest


class _Content:
    """A file's bytes from its begin, each time it is iterated."""

    def __init__(self, file: IO[bytes], on_sent: OnSent | None) -> None:
        self._file = file
        self._on_sent = on_sent
        self.size = file.seek(0, 2)

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        sent = 0
        while block := self._file.read(_BLOCK):
            yield block
            sent += len(block)
            if self._on_sent is not None:
                self._on_sent(sent, self.size)
