"""A chunk of output as it lies in the object store: records, compressed."""

from dataclasses import dataclass
from uuid import UUID

import zstandard

from scheduler.log_records import MAX_CONTENT_BYTES, BadRecordsError

_MAX_WINDOW_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class Chunk:
    """Which part of which log it is. `length` counts output, what was dropped included.

    `merged_uid` is of those that were several.
    """

    attempt_uid: UUID
    rank: int
    position: int
    length: int
    merged_uid: UUID | None = None

    @property
    def end(self) -> int:
        return self.position + self.length

    @property
    def key(self) -> str:
        """Of its object. Two that cover the same bytes are equally true, whatever else they differ in."""
        merged = "" if self.merged_uid is None else f"-{self.merged_uid.hex}"
        return f"logs/{self.attempt_uid}/{self.rank}/{self.position}-{self.length}{merged}"


def compressed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(content)


def decompressed(body: bytes) -> bytes:
    """The records of a chunk, `MAX_CONTENT_BYTES` at most.

    Raises:
        BadRecordsError
    """
    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(body, read_across_frames=True)
    try:
        content = reader.read(MAX_CONTENT_BYTES + 1)
    except zstandard.ZstdError as error:
        raise BadRecordsError(f"this is not compressed with zstd: {error}") from error
    if len(content) > MAX_CONTENT_BYTES:
        raise BadRecordsError(f"a chunk is more than {MAX_CONTENT_BYTES} bytes of records")
    return content
