"""`remotegpu usage` and `remotegpu bill`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from remotegpu.cli.output import JsonFlag, console, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.units import money, seconds

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="UTC.")]


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


def bill(context: typer.Context, start: Day = None, end: Day = None, as_json: JsonFlag = False) -> None:
    """Show the balance and the statement."""
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


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
