"""`remotegpu admin price`: what things cost, for everybody or for one customer."""

from __future__ import annotations

from typing import Annotated

import typer

from remotegpu.cli.customers import find_customer
from remotegpu.cli.output import JsonFlag, console, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.units import duration, money, now_here, parse_duration, parse_moment, parse_money, parse_percent
from remotegpu.models import Json

app = typer.Typer(help="Prices of GPU models and other units.", no_args_is_help=True)

UNITS = {
    "gpu_hour": "GPU-hour",
    "cpu_core_hour": "CPU core-hour",
    "memory_gib_hour": "GiB-hour of memory",
    "volume_gib_month": "GiB-month of volumes",
    "egress_gib": "GiB sent",
}
Discount = Annotated[str | None, typer.Option(help="In percent, for example 30; discounts do not add up.")]


@app.command("set")
def set_price(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help=f"A GPU model, or one of {', '.join(list(UNITS)[1:])}.")],
    amount: Annotated[str, typer.Argument(help="Per GPU-hour, or per unit; for example 2.50.")],
    currency: Annotated[str | None, typer.Option("--currency")] = None,
    customer: Annotated[str | None, typer.Option("--customer", help="For this customer alone.")] = None,
    capacity_group: Annotated[
        str | None, typer.Option("--capacity-group", help="For what is charged to this group alone.")
    ] = None,
    preemptible_discount: Discount = None,
    reserved_discount: Discount = None,
    kept_for: Annotated[
        str | None, typer.Option("--kept-for", help="How long what starts keeps it, as 30d; else to its end.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="'2026-12-01 09:00' or +2h; now by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set a price; what runs keeps the one it started with, for as long as that one says."""
    fields: Json = {"unit": what} if what in UNITS else {"gpu_model": what}
    fields |= {"currency": currency, "capacity_group": capacity_group}
    if preemptible_discount is not None:
        fields["preemptible_discount_permille"] = parse_percent(preemptible_discount)
    if reserved_discount is not None:
        fields["reserved_discount_permille"] = parse_percent(reserved_discount)
    if kept_for is not None:
        fields["kept_for_s"] = parse_duration(kept_for)
    if start is not None:
        fields["effective_from"] = parse_moment(start, now=now_here()).isoformat()
    micro = parse_money(amount)
    with connected(context) as client:
        if customer is not None:
            fields["customer"] = find_customer(client, customer)["id"]
        created = client.admin.set_price(price_micro=micro, **fields)
        if as_json:
            print_json(created)
        else:
            unit = UNITS.get(created["unit"], created["unit"])
            reach = f", for {_reach(created)} alone" if _reach(created) else ""
            console.print(f"{what}: {money(micro, created.get('currency'))} per {unit}{reach}")


@app.command("list")
def list_prices(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show every price version, newest first."""
    with connected(context) as client:
        found = list(client.admin.list("prices"))
        if as_json:
            print_json(found)
            return
        rows = [
            (
                p["gpu_model"] or "",
                money(p["price_micro"], p.get("currency")),
                UNITS.get(p["unit"], p["unit"]),
                _percent(p["preemptible_discount_permille"]),
                _percent(p["reserved_discount_permille"]),
                duration(p["kept_for_s"]),
                _reach(p) or "everybody",
                p["effective_from"],
            )
            for p in found
        ]
        titles = ["GPU MODEL", "PRICE", "PER", "PREEMPTIBLE", "RESERVED", "KEPT FOR", "FOR", "FROM"]
        print_rows(titles, rows, empty="No price is set: nothing can be rented.")


def _reach(price: Json) -> str:
    if price.get("capacity_group"):
        return f"capacity group {price['capacity_group']}"
    return str(price.get("customer") or "")


def _percent(permille: int) -> str | None:
    return f"-{permille / 10:g}%" if permille else None
