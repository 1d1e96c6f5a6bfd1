"""`remotegpu admin customer refund|transfer|adjust|credit|promote`."""

from __future__ import annotations

from typing import Annotated

import typer

from remotegpu.cli.customers import find_customer
from remotegpu.cli.output import JsonFlag, console, print_json
from remotegpu.cli.session import connected
from remotegpu.cli.units import money, now_here, parse_moment, parse_money
from remotegpu.models import Json

Amount = Annotated[str, typer.Argument(help="For example 100.00.")]
Note = Annotated[str | None, typer.Option("--note", help="The customer reads it in their journal.")]


def refund(context: typer.Context, name: str, amount: Amount, note: Note = None, as_json: JsonFlag = False) -> None:
    """Give back what a customer has paid in and is free."""
    amount_micro = parse_money(amount)
    with connected(context) as client:
        found = find_customer(client, name)
        _print(client.admin.refund(found["id"], amount_micro=amount_micro, note=note), as_json=as_json)


def transfer(
    context: typer.Context,
    name: str,
    to: Annotated[str, typer.Argument(help="The customer who gets it.")],
    amount: Amount,
    note: Note = None,
    as_json: JsonFlag = False,
) -> None:
    """Move what a customer has paid in and is free to another one."""
    amount_micro = parse_money(amount)
    with connected(context) as client:
        source, target = find_customer(client, name), find_customer(client, to)
        moved = client.admin.transfer(source["id"], to=target["id"], amount_micro=amount_micro, note=note)
        _print(moved, as_json=as_json)


def adjust(
    context: typer.Context,
    name: str,
    reason: Annotated[str, typer.Option("--reason", help="The customer reads it in their journal.")],
    give: Annotated[str | None, typer.Option("--give", help="For example 5.00.")] = None,
    take: Annotated[str | None, typer.Option("--take", help="For example 5.00.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a customer an amount that they have not paid, or take one."""
    if (give is None) == (take is None):
        raise typer.BadParameter("say --give AMOUNT or --take AMOUNT")
    amount_micro = parse_money(give or take or "0")
    if amount_micro <= 0:
        raise typer.BadParameter("write an amount above zero, after --give or --take")
    amount_micro = amount_micro if give is not None else -amount_micro
    with connected(context) as client:
        found = find_customer(client, name)
        _print(client.admin.adjust(found["id"], amount_micro=amount_micro, reason=reason), as_json=as_json)


def credit(
    context: typer.Context,
    name: str,
    limit: Annotated[str, typer.Argument(help="How far below zero the balance may go; 0: paid beforehand.")],
    as_json: JsonFlag = False,
) -> None:
    """Let a customer pay afterwards, up to a limit."""
    limit_micro = parse_money(limit)
    with connected(context) as client:
        found = find_customer(client, name)
        _print(client.admin.limit_credit(found["id"], credit_limit_micro=limit_micro), as_json=as_json)


def promote(
    context: typer.Context,
    name: str,
    amount: Amount,
    until: Annotated[str, typer.Option("--until", help="As '2026-12-31', '2026-12-31 18:00' or +30d.")],
    note: Note = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a customer credit that is spent first; what is unspent by then goes back."""
    amount_micro, expires_at = parse_money(amount), parse_moment(until, now=now_here())
    with connected(context) as client:
        found = find_customer(client, name)
        made = client.admin.give_credit(found["id"], amount_micro=amount_micro, expires_at=expires_at, note=note)
        if as_json:
            print_json(made)
        else:
            console.print(f"{money(made['amount_micro'], made['currency'])} until {made['expires_at']}")


def _print(balance: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(balance)
        return
    available = money(balance["available_micro"], balance["currency"])
    console.print(f"Balance {money(balance['balance_micro'], balance['currency'])}, {available} to spend")
