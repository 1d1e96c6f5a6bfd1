"""`remotegpu usage` and `remotegpu bill`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_json_line, print_rows
from remotegpu.cli.session import connected, reported
from remotegpu.cli.units import money, seconds
from remotegpu.errors import RemoteGpuError

if TYPE_CHECKING:
    from remotegpu.bill import Verified

app = typer.Typer(invoke_without_command=True)

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="UTC.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead.")]


def usage(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the proven running time of your allocations, newest first."""
    with connected(context) as client:
        intervals = list(client.billing.usage())
        if as_json:
            print_json(intervals)
            return
        rows = [
            (
                line.get("environment"),
                line.get("gpu_model"),
                line.get("from"),
                seconds(line.get("duration_ms")),
                money(line.get("amount_micro"), line.get("currency")),
            )
            for line in intervals
        ]
        print_rows(["ENVIRONMENT", "GPU MODEL", "FROM", "DURATION", "AMOUNT"], rows, empty="Nothing has been used yet.")


@app.callback()
def bill(context: typer.Context, start: Day = None, end: Day = None, as_json: JsonFlag = False) -> None:
    """Show the balance and the statement; export a bill, and check it."""
    if context.invoked_subcommand is not None:
        return
    with connected(context) as client:
        statement = client.billing.statement(start=_utc(start), end=_utc(end))
        balance = client.billing.balance()
        if as_json:
            print_json({"balance": balance, "statement": statement})
            return
        rows = [
            (
                line.get("environment"),
                line.get("gpu_model"),
                money(line.get("price_micro_per_gpu_hour"), line.get("currency")),
                seconds(line.get("duration_ms")),
                money(line.get("amount_micro"), line.get("currency")),
            )
            for line in statement["lines"]
        ]
        titles = ["ENVIRONMENT", "GPU MODEL", "PRICE PER GPU-HOUR", "DURATION", "AMOUNT"]
        print_rows(titles, rows, empty="Nothing has been charged in this period.")
        console.print(f"Balance {money(balance.balance_micro, balance.currency)}", end="")
        console.print(f", of which {money(balance.held_micro)} is held for what runs.")


@app.command()
def export(
    context: typer.Context,
    period: Annotated[str, typer.Option("--period", help="The month, UTC, as 2026-11.")],
    output: Output = None,
) -> None:
    """Print everything by which a month's bill can be checked, signed by the platform."""
    with connected(context) as client, _target(output) as file:
        for piece in client.billing.export(period):
            file.write(piece)


@app.command()
def keys(context: typer.Context, output: Output = None, as_json: JsonFlag = False) -> None:
    """Print the platform's public keys: keep them, to check bills with them later."""
    with connected(context) as client:
        found = client.billing.keys()
    if as_json:
        print_json(found)
        return
    with _target(output) as file:
        file.write("".join(key["public_key"] for key in found).encode())


@app.command()
def verify(
    files: Annotated[list[Path], typer.Argument(help="As `bill export` printed them; several in the order of months.")],
    key: Annotated[Path | None, typer.Option("--key", help="The platform's public keys, from `bill keys`.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Recompute every amount of exported bills, with nothing but the files and the key. It connects to nothing."""
    from remotegpu.bill import BadLine, Verifier, read_keys  # slow to import, and other commands need none of it

    with reported(), _readable():
        verifier = Verifier(None if key is None else read_keys(key.read_bytes()))
        for file in files:
            try:
                with file.open("rb") as content:
                    found = verifier.verify(content)
            except BadLine as error:
                raise RemoteGpuError(f"{file}, {error}") from error
            if as_json:
                print_json_line(found)
            else:
                _tell(found)
    if not as_json:
        by = "by the key that each file itself names: compare it, or give --key" if key is None else "by the given key"
        console.print(f"Every line holds, {by}.")


def _tell(found: Verified) -> None:
    rows = [
        ("Period", f"{found.period}, {'closed' if found.closed else 'not over yet'}"),
        ("Customer", found.customer),
        ("Amount", money(found.amount_micro, found.currency)),
        ("Device time", seconds(found.duration_ms)),
        ("Usage records", f"{found.records}, the last is number {found.sequence}: {found.hash}"),
        ("Lines", f"{found.lines}: {found.windows} windows, {found.transactions} transactions"),
        ("Signed by", found.key),
    ]
    print_fields(rows)
    if found.unsealed_ms:
        console.print(f"{seconds(found.unsealed_ms)} of the last minute are paid for and not sealed yet.")


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RemoteGpuError(f"{error.filename} can't be read: {error.strerror}") from error


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    part = output.with_name(f"{output.name}.part")  # what is kept there already is replaced by the whole alone
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise RemoteGpuError(f"{output} can't be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
