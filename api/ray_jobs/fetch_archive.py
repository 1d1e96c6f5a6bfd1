"""Runs in a job's container: fetch a zip archive and unpack it. Standard library only, Python 3.9 or later.

`python3 -c SOURCE URL DIRECTORY`. As Ray does it, a single folder at the top of the archive is left out.
"""

import shutil
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

MAX_BYTES = 4 * 2**30
_TIMEOUT_S = 60
_PIECE = 2**20


def fetch(url: str, directory: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        archive, content = Path(scratch, "archive.zip"), Path(scratch, "content")
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, archive.open("wb") as file:
            _copy(answer, file)
        with zipfile.ZipFile(archive) as opened:
            if sum(entry.file_size for entry in opened.infolist()) > MAX_BYTES:
                raise SystemExit(f"{url}: unpacked, it is larger than {MAX_BYTES} bytes")
            opened.extractall(content)  # which keeps what it unpacks below `content`
        top = [entry for entry in content.iterdir() if entry.name != "__MACOSX"]
        source = top[0] if len(top) == 1 and top[0].is_dir() else content
        shutil.copytree(source, directory, dirs_exist_ok=True)


def _copy(answer, file) -> None:  # type: ignore[no-untyped-def]  # streams of bytes; no typing in this file
    size = 0
    while piece := answer.read(_PIECE):
        size += len(piece)
        if size > MAX_BYTES:
            raise SystemExit(f"the archive is larger than {MAX_BYTES} bytes")
        file.write(piece)


if __name__ == "__main__":
    fetch(sys.argv[1], Path(sys.argv[2]))
