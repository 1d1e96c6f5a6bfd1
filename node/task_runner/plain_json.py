"""JSON as far as the runner needs it, without the import of `json`: the regular expressions that come with it take more
processor time than all else that a short task does.
"""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii, make_scanner
except ImportError:  # another Python than CPython
    from json.encoder import encode_basestring_ascii
    from json.scanner import make_scanner


class _Rules:
    """What the scanner asks for."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int

    def __init__(self) -> None:
        self.memo: dict[str, str] = {}

    @staticmethod
    def parse_constant(name: str) -> object:
        raise ValueError(f"{name} is no JSON")


def loads(text: str) -> dict[str, object]:
    """An object.

    Raises:
        ValueError: it is none, or does not begin at once, or something follows it.
    """
    try:
        document, end = make_scanner(_Rules())(text, 0)  # type: ignore[arg-type]  # anything with these attributes
    except (StopIteration, SystemError):  # that: without `json` it finds no error to raise
        raise ValueError("it is no JSON") from None
    if not isinstance(document, dict) or text[end:].strip():
        raise ValueError("it is no JSON object alone")
    return document


def dumps(value: object) -> str:
    """Of texts, whole numbers, fractions, truth values, and lists and objects of them.

    Raises:
        TypeError
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(dumps, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{encode_basestring_ascii(name)}: {dumps(each)}' for name, each in value.items())}}}"
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
