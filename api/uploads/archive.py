"""Whether a file is a zip archive that may be unpacked in a container: judged by its directory, nothing is unpacked.

The directory has to be the whole end of the file, and no larger than a bound, before it is read into memory. What the
entries themselves hold is not looked at: `zipfile` refuses, when it unpacks them, what is not as the directory says.
"""

import stat
import struct
import zipfile
from collections.abc import Iterable
from typing import BinaryIO

MAX_ENTRIES = 50_000
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_UNPACKED_BYTES = 8 * 2**30
MAX_PATH_BYTES = 4096
MAX_PART_BYTES = 255

_END = struct.Struct("<4s4H2LH")  # PKWARE's APPNOTE.TXT, 4.3.16: the end of central directory record
_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT = 65_535
_LOCAL_HEADER_BYTES = 30  # 4.3.7, without name and extra field
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCH = 0x20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FILE_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)


class BadArchiveError(Exception):
    """The message says why, for whoever made it."""


def check(file: BinaryIO, size_bytes: int) -> None:
    """
    Raises:
        BadArchiveError
    """
    count, start = _directory_of(file, size_bytes)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise BadArchiveError(f"its directory can't be read ({str(error)[:100]})") from error
    if len(entries) != count:
        raise BadArchiveError(f"its directory has {len(entries)} entries and says {count}")
    for entry in entries:
        _check_entry(entry)
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
        raise BadArchiveError(f"unpacked, it would have more than {MAX_UNPACKED_BYTES} bytes")
    _check_names(entries)
    _check_places(entries, end=start)


def _directory_of(file: BinaryIO, size_bytes: int) -> tuple[int, int]:
    """How many entries the directory says it has, and where it begins."""
    tail_at = max(0, size_bytes - _END.size - _MAX_COMMENT)
    file.seek(tail_at)
    tail = file.read()
    found = tail.rfind(_SIGNATURE)
    if found < 0 or len(tail) - found < _END.size:
        raise BadArchiveError("it is no zip archive, or its end is missing")
    _, disk, directory_disk, here, count, directory_size, start, comment = _END.unpack_from(tail, found)
    if len(tail) - found - _END.size != comment:
        raise BadArchiveError("something stands behind its end")
    if disk or directory_disk or here != count:
        raise BadArchiveError("it is a part of a larger one")
    if count > MAX_ENTRIES or directory_size > MAX_DIRECTORY_BYTES:
        raise BadArchiveError(f"it has more than {MAX_ENTRIES} entries, or too long names")
    if start + directory_size != tail_at + found:
        raise BadArchiveError("its directory is not where its end says")
    return count, start


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    if entry.flag_bits & _ENCRYPTED:
        raise BadArchiveError(f"{_shown(name)} is encrypted")
    if entry.compress_type not in _METHODS or entry.flag_bits & _PATCH:
        raise BadArchiveError(f"{_shown(name)} is neither stored nor deflated")
    if stat.S_IFMT(entry.external_attr >> 16) not in _FILE_TYPES:
        raise BadArchiveError(f"{_shown(name)} is a link, or neither a file nor a folder")
    if name.startswith("/"):
        raise BadArchiveError(f"{_shown(name)} is an absolute path")
    if "\0" in name or "\\" in name:
        raise BadArchiveError(f"{_shown(name)} has a character that a path in an archive must not have")
    if ".." in name.split("/"):
        raise BadArchiveError(f"{_shown(name)} leads out of the archive")
    lengths = [len(part.encode("utf-8", "surrogatepass")) for part in name.split("/")]
    if max(lengths) > MAX_PART_BYTES or sum(lengths) + len(lengths) > MAX_PATH_BYTES:
        raise BadArchiveError(f"{_shown(name)} is too long")


def _check_names(entries: Iterable[zipfile.ZipInfo]) -> None:
    """Each path once, and none of them a file with others below it."""
    seen: set[tuple[str, ...]] = set()
    files: set[tuple[str, ...]] = set()
    for entry in entries:
        path = tuple(part for part in entry.orig_filename.split("/") if part not in ("", "."))
        if not path and not entry.is_dir():
            raise BadArchiveError("an entry has no name")
        if path in seen:
            raise BadArchiveError(f"{_shown(entry.orig_filename)} is in it twice")
        seen.add(path)
        if not entry.is_dir():
            files.add(path)
    for path in seen:
        if any(path[:depth] in files for depth in range(1, len(path))):
            raise BadArchiveError(f"{_shown('/'.join(path))} lies below a file")


def _check_places(entries: Iterable[zipfile.ZipInfo], *, end: int) -> None:
    """No two entries share bytes: an archive of some kilobytes could unpack to any size otherwise."""
    at = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < at:
            raise BadArchiveError(f"{_shown(entry.orig_filename)} lies in another entry")
        at = entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size
    if at > end:
        raise BadArchiveError("an entry lies outside of it")


def _shown(name: str) -> str:
    return ascii(name[:100])
