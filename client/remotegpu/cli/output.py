"""Printing: a table for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_COPIED = frozenset({"ID", "GPU", "NAME"})  # columns that people copy from: never folded
_WIDE = 1000  # columns, where no terminal limits them: a line of a table is a line of the output

console = Console(highlight=False)


def print_json(value: Any) -> None:  # any value that msgspec encodes
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_json_line(value: Any) -> None:  # as above
    """One of many, on a line of its own."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_rows(titles: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title in _COPIED)
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    _print(table if table.row_count else empty)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for title, value in fields:
        table.add_row(title, _cell(value))
    _print(table)


def _cell(value: object) -> str:
    return "-" if value is None else escape(str(value))  # what others wrote is text, not markup


def _print(shown: Table | str) -> None:
    target = console if console.is_terminal else Console(highlight=False, width=_WIDE)
    target.print(shown, crop=False)
