"""Which files of a folder are left out, by the rules of `.gitignore` and `.remotegpuignore`, exactly as git reads them.

A pattern decides about one path, and what lies in a folder that is left out is not looked at. Libraries let a pattern
match what lies below its match as well, which differs from git as soon as a later pattern takes something back.
The matching is that of git's documentation (gitignore, "PATTERN FORMAT") and of its `wildmatch`, on bytes.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GIT = ".gitignore"
OURS = ".remotegpuignore"

_WILD = frozenset(b"*?[\\")
_SLASH = ord("/")
_PRINTED = frozenset(range(0x20, 0x7F))
_CLASSES = {
    "alnum": frozenset((string.ascii_letters + string.digits).encode()),
    "alpha": frozenset(string.ascii_letters.encode()),
    "blank": frozenset(b" \t"),
    "cntrl": frozenset([*range(0x20), 0x7F]),
    "digit": frozenset(string.digits.encode()),
    "graph": _PRINTED - frozenset(b" "),
    "lower": frozenset(string.ascii_lowercase.encode()),
    "print": _PRINTED,
    "punct": frozenset(string.punctuation.encode()),
    "space": frozenset(b" \t\n\r"),
    "upper": frozenset(string.ascii_uppercase.encode()),
    "xdigit": frozenset(string.hexdigits.encode()),
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """`by_name`: it is compared with the last part of a path alone."""

    regex: re.Pattern[bytes]
    takes_back: bool
    folders_only: bool
    by_name: bool


@dataclass(frozen=True, slots=True)
class Level:
    """The patterns of one ignore file; `base` is its folder, empty or ending in a slash."""

    base: bytes
    patterns: tuple[Pattern, ...]

    def verdict(self, path: bytes, *, is_folder: bool) -> bool | None:
        """Whether the last pattern that matches leaves it out; None if none does."""
        inner = path[len(self.base) :]
        name = path.rpartition(b"/")[2]
        for pattern in reversed(self.patterns):
            if (is_folder or not pattern.folders_only) and pattern.regex.fullmatch(name if pattern.by_name else inner):
                return not pattern.takes_back
        return None


@dataclass(frozen=True, slots=True)
class Rules:
    """What applies in one folder: its own ignore files and those above, the deepest last. Ours go before git's."""

    git: tuple[Level, ...] = ()
    ours: tuple[Level, ...] = ()

    def leave_out(self, path: bytes, *, is_folder: bool) -> bool:
        for level in (*reversed(self.ours), *reversed(self.git)):
            verdict = level.verdict(path, is_folder=is_folder)
            if verdict is not None:
                return verdict
        return False

    def within(self, folder: Path, base: bytes) -> Rules:
        """With the ignore files that lie in `folder`, whose path is `base`."""
        return Rules(self.git + _level(folder / GIT, base), self.ours + _level(folder / OURS, base))


def _level(file: Path, base: bytes) -> tuple[Level, ...]:
    if file.is_symlink() or not file.is_file():
        return ()
    patterns = tuple(parse(file.read_bytes()))
    return (Level(base, patterns),) if patterns else ()


def parse(content: bytes) -> Iterable[Pattern]:
    """The patterns of an ignore file, in order."""
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        text = _without_trailing_spaces(line.removesuffix(b"\r"))
        if not text or text.startswith(b"#"):
            continue
        takes_back, text = text.startswith(b"!"), text.removeprefix(b"!")
        folders_only, text = text.endswith(b"/"), text.removesuffix(b"/")
        by_name = b"/" not in text
        yield Pattern(re.compile(_regex(text.removeprefix(b"/")), re.DOTALL), takes_back, folders_only, by_name)


def _without_trailing_spaces(line: bytes) -> bytes:
    """A space behind a backslash stays."""
    end = place = 0
    while place < len(line):
        width = 2 if line[place : place + 1] == b"\\" else 1
        place += width
        if width == 2 or line[place - 1 : place] != b" ":
            end = place
    return line[:end]


class _NoMatch(Exception):
    """The pattern is malformed, and matches nothing."""


def _regex(text: bytes) -> bytes:
    place = next((i for i, byte in enumerate(text) if byte in _WILD), len(text))
    found = re.escape(text[:place])
    begin = place  # git compares the part without wildcards by itself, and the rest as a pattern of its own
    try:
        while place < len(text):
            part, place = _part(text, place, begin)
            found += part
    except _NoMatch:
        return b"(?!)"
    return found


def _part(text: bytes, place: int, begin: int) -> tuple[bytes, int]:
    """The regular expression of what begins at `place`, and where the next part begins."""
    char = text[place : place + 1]
    if char == b"*":
        return _stars(text, place, begin)
    if char == b"?":
        return b"[^/]", place + 1
    if char == b"[":
        return _brackets(text, place + 1)
    if char == b"\\":
        if place + 1 == len(text):
            raise _NoMatch
        return re.escape(text[place + 1 : place + 2]), place + 2
    return re.escape(char), place + 1


def _stars(text: bytes, place: int, begin: int) -> tuple[bytes, int]:
    """Two or more stars between slashes, or the ends, stand for any folders; elsewhere they are as one star."""
    end = place
    while text[end : end + 1] == b"*":
        end += 1
    between = (place == begin or text[place - 1] == _SLASH) and (end == len(text) or text[end] == _SLASH)
    if end - place == 1 or not between:
        return b"[^/]*", end
    return (b".*", end) if end == len(text) else (b"(?:.*/)?", end + 1)


def _brackets(text: bytes, place: int) -> tuple[bytes, int]:
    """A set of bytes, from behind its opening bracket. It never has the slash."""
    negated = text[place : place + 1] in (b"!", b"^")
    place += negated
    found: set[int] = set()
    before = 0  # the byte that a range may begin with
    first = True
    while first or text[place : place + 1] != b"]":
        before, place = _member(text, place, before, found)
        first = False
    chosen = (set(range(256)) - found if negated else found) - {_SLASH}
    if not chosen:
        raise _NoMatch
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(chosen)) + b"]", place + 1


def _member(text: bytes, place: int, before: int, found: set[int]) -> tuple[int, int]:
    """Add one member of a set; the byte that a range may begin with, and where the next member begins."""
    byte, following = _byte(text, place), text[place + 1 : place + 2]
    if byte == ord("-") and before and following not in (b"", b"]"):
        last, end = _escaped(text, place + 1)
        found.update(range(before, last + 1))
        return 0, end
    if byte == ord("[") and following == b":":
        end = text.find(b"]", place + 2)
        if end < 0:
            raise _NoMatch
        if end > place + 2 and text[end - 1 : end] == b":":
            named = _CLASSES.get(text[place + 2 : end - 1].decode("latin-1"))
            if named is None:
                raise _NoMatch
            found.update(named)
            return 0, end + 1
    byte, end = _escaped(text, place)
    found.add(byte)
    return byte, end


def _escaped(text: bytes, place: int) -> tuple[int, int]:
    byte = _byte(text, place)
    return (_byte(text, place + 1), place + 2) if byte == ord("\\") else (byte, place + 1)


def _byte(text: bytes, place: int) -> int:
    if place >= len(text):
        raise _NoMatch
    return text[place]
