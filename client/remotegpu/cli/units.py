"""Between what people type and read, and the integers that the API speaks."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

import typer

_MEMORY_UNITS = {
    "": 1, "B": 1,
    "K": 2**10, "KB": 10**3, "KIB": 2**10,
    "M": 2**20, "MB": 10**6, "MIB": 2**20,
    "G": 2**30, "GB": 10**9, "GIB": 2**30,
    "T": 2**40, "TB": 10**12, "TIB": 2**40,
}  # fmt: skip
MICRO = 1_000_000


def parse_memory(text: str | None) -> int | None:
    """`32GB` (powers of ten), `32GiB` or `32G` (powers of two), in bytes."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _MEMORY_UNITS:
        raise typer.BadParameter(f"{text!r} is not an amount of memory; write for example 32GB or 32GiB")
    return int(Decimal(found[1]) * _MEMORY_UNITS[found[2].upper()])


def parse_cpus(cpus: float | None) -> int | None:
    """CPUs, in milli-cores."""
    return None if cpus is None else round(cpus * 1000)


def parse_money(text: str) -> int:
    """`12.50`, in micro-units.

    Raises:
        typer.BadParameter: not an amount, or finer than a micro-unit.
    """
    try:
        micro = Decimal(text) * MICRO
    except InvalidOperation as error:
        raise typer.BadParameter(f"{text!r} is not an amount; write for example 12.50") from error
    if not micro.is_finite() or micro != micro.to_integral_value():
        raise typer.BadParameter(f"{text!r} has more than six decimals")
    return int(micro)


def money(micro: int | None, currency: str | None = None) -> str:
    """An amount to the last micro-unit, without trailing zeros beyond cents."""
    if micro is None:
        return "-"
    sign, micro = ("-" if micro < 0 else ""), abs(micro)
    decimals = f"{micro % MICRO:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{micro // MICRO}.{decimals}" + (f" {currency}" if currency else "")


def memory(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**30:.1f} GiB"


def seconds(duration_ms: int | None) -> str:
    return "-" if duration_ms is None else f"{duration_ms / 1000:.3f} s"
