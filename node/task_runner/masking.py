"""Secret values in output are replaced, also where a read ends within one."""

from __future__ import annotations

MASK = b"***"
SHORTEST = 4  # bytes; shorter values would hide half of what is printed, and are no secrets
_SHORTEST_LINE = 8  # of a value that has several: tools print such values line by line


def hidden_texts(values: list[str]) -> list[bytes]:
    """What must not be seen of these values, the longest first."""
    found: set[bytes] = set()
    for value in values:
        texts = [value, value.strip()]
        lines = value.splitlines()
        if len(lines) > 1:
            texts += [line for line in lines if len(line.encode()) >= _SHORTEST_LINE]
        found.update(text.encode() for text in texts if len(text.encode()) >= SHORTEST)
    return sorted(found, key=lambda text: (-len(text), text))


class Masking:
    """For one stream. What may be the beginning of a secret is held back until more is known."""

    def __init__(self, texts: list[bytes]) -> None:
        self._texts, self._held = texts, b""

    def pass_on(self, data: bytes) -> bytes:
        """What may be shown now."""
        if not self._texts:
            return data
        whole = self._held + data
        end = self._settled(whole)
        self._held = whole[end:]
        return self._masked(whole[:end])

    def rest(self) -> bytes:
        """What was held back, at the stream's end."""
        held, self._held = self._held, b""
        return self._masked(held)

    def _masked(self, data: bytes) -> bytes:
        for text in self._texts:
            if text in data:
                data = data.replace(text, MASK)
        return data

    def _settled(self, data: bytes) -> int:
        """How many of the bytes can be masked whatever follows: no secret begins before and ends after."""
        end = min((_begun(data, text) for text in self._texts), default=len(data))
        moved = True
        while moved:
            moved = False
            for text in self._texts:
                place = data.find(text, max(0, end - len(text) + 1), end + len(text) - 1)
                if 0 <= place < end:
                    end, moved = place, True
        return end


def _begun(data: bytes, text: bytes) -> int:
    """Where at the end of the data an unfinished `text` begins; its length if none does."""
    place = data.find(text[:1], max(0, len(data) - len(text) + 1))
    while place >= 0:
        if text.startswith(data[place:]):
            return place
        place = data.find(text[:1], place + 1)
    return len(data)
