"""Between what people type and read, and the integers that the API speaks."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal, DecimalException, InvalidOperation

import typer

_MEMORY_UNITS = {
    "": 1, "B": 1,
    "K": 2**10, "KB": 10**3, "KIB": 2**10,
    "M": 2**20, "MB": 10**6, "MIB": 2**20,
    "G": 2**30, "GB": 10**9, "GIB": 2**30,
    "T": 2**40, "TB": 10**12, "TIB": 2**40,
}  # fmt: skip
MICRO = 1_000_000
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


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


def parse_gpus(text: str) -> tuple[int, int | None]:
    """`2`: two GPUs; `0.46`: one, and of it 460 thousandths; `0`: none.

    Raises:
        typer.BadParameter: neither a whole number nor a share of one.
    """
    milli = parse_milli(text)
    if 0 < milli < 1000:
        return 1, milli
    if milli % 1000:
        raise typer.BadParameter(f"{text!r}: write a whole number of GPUs, or a share of one, for example 0.46")
    return milli // 1000, None


def parse_milli(text: str) -> int:
    """`2` or `0.46`, in thousandths.

    Raises:
        typer.BadParameter: no number, negative, or finer than a thousandth.
    """
    try:
        milli = Decimal(text) * 1000
    except InvalidOperation as error:
        raise typer.BadParameter(f"{text!r} is no number of GPUs; write for example 2 or 0.46") from error
    if not milli.is_finite() or milli < 0 or milli != milli.to_integral_value():
        raise typer.BadParameter(f"{text!r} is no number of GPUs; write for example 2, or thousandths as 0.46")
    return int(milli)


def parse_duration(text: str | None) -> int | None:
    """`90s`, `30m`, `2h`, `1d`, or joined as `1h30m`, in seconds."""
    if text is None:
        return None
    if not re.fullmatch(r"(?:\d{1,9}[smhdw])+", text.strip()):
        raise typer.BadParameter(f"{text!r} is no length of time; write for example 90s, 30m, 2h, 1d or 1h30m")
    parts = re.findall(r"(\d+)([smhdw])", text)
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def now_here() -> datetime:
    """Now, in this machine's time zone."""
    return datetime.now(timezone.utc).astimezone()  # noqa: UP017 - this also runs on Python 3.10


def parse_moment(text: str, *, now: datetime) -> datetime:
    """`2026-12-01 09:00` (in this machine's time zone unless it names another), `+2h` from now, or `now`."""
    text = text.strip()
    if text == "now":
        return now
    try:
        if text.startswith("+"):
            return now + timedelta(seconds=parse_duration(text[1:]) or 0)
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no time; write for example '2026-12-01 09:00', +2h or now") from error


def moment(at: datetime, *, now: datetime) -> str:
    """In this machine's time zone; the day only if it is another."""
    here = at.astimezone()
    return f"{here:%H:%M}" if here.date() == now.astimezone().date() else f"{here:%Y-%m-%d %H:%M}"


def duration(length_s: int | None) -> str | None:
    """`5400` seconds are `1h30m`."""
    if length_s is None:
        return None
    said = ""
    for unit in "dhms":
        number, length_s = divmod(length_s, _SECONDS[unit])
        said += f"{number}{unit}" if number else ""
    return said or "0s"


def gpus(milli: int) -> str:
    """`2` or `0.46`."""
    return f"{milli / 1000:g}"


def parse_money(text: str) -> int:
    """`12.50`, in micro-units.

    Raises:
        typer.BadParameter: not an amount, or finer than a micro-unit.
    """
    try:
        micro = Decimal(text) * MICRO
    except DecimalException as error:
        raise typer.BadParameter(f"{text!r} is not an amount; write for example 12.50") from error
    if not micro.is_finite() or micro != micro.to_integral_value():
        raise typer.BadParameter(f"{text!r} has more than six decimals")
    return int(micro)


def parse_percent(text: str) -> int:
    """`30` or `12.5`, in thousandths.

    Raises:
        typer.BadParameter: no percentage, or finer than a thousandth.
    """
    try:
        permille = Decimal(text.removesuffix("%")) * 10
    except InvalidOperation as error:
        raise typer.BadParameter(f"{text!r} is no percentage; write for example 30 or 12.5") from error
    if not permille.is_finite() or not 0 <= permille <= 1000 or permille != permille.to_integral_value():
        raise typer.BadParameter(f"{text!r}: write a percentage from 0 to 100, with one decimal at most")
    return int(permille)


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
