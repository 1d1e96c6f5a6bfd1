"""`remotegpu balance`: what there is to spend, how long it lasts, and when to be warned."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.units import duration, moment, money, now_here, parse_duration
from remotegpu.models import Json

app = typer.Typer(help="What you may spend, and how long it lasts.", no_args_is_help=True)


@app.command("show")
def show(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the balance, how long it lasts for what runs, the warnings that stand, and what is left of promotions."""
    with connected(context) as client:
        balance, run_time = client.billing.balance(), client.billing.run_time()
        promotions = [each for each in client.billing.promotions() if each["left_micro"]]
        if as_json:
            print_json({"balance": balance, "run_time": run_time, "promotions": promotions})
            return
        currency = balance.currency
        print_fields(
            [
                ("balance", money(balance.balance_micro, currency)),
                ("held for what runs", money(balance.held_micro, currency)),
                ("credit limit", money(balance.credit_limit_micro, currency)),
                ("to spend", money(balance.available_micro, currency)),
                ("spending per hour", money(run_time["spending_micro_per_hour"], currency)),
                ("lasts until", _until(run_time)),
                ("warned before", _thresholds(run_time["warn_before_s"])),
            ]
        )
        if promotions:
            rows = [(money(p["left_micro"], p["currency"]), p["expires_at"], p["note"]) for p in promotions]
            print_rows(["PROMOTION", "UNTIL", "NOTE"], rows, empty="")


@app.command("warn")
def warn(
    context: typer.Context,
    before: Annotated[list[str] | None, typer.Argument(help="Run times left, as 2h or 30m; none: no more.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say when you want to be warned besides: a day, an hour and 10 minutes before the end everybody is."""
    thresholds_s = [parse_duration(text) or 0 for text in before or []]
    with connected(context) as client:
        run_time = client.billing.warn_before(thresholds_s)
        print_json(run_time) if as_json else console.print(f"Warned {_thresholds(run_time['warn_before_s'])} before.")


def _until(run_time: Json) -> str:
    if run_time["runs_out_at"] is None:
        return "nothing that costs runs"
    said = moment(datetime.fromisoformat(run_time["runs_out_at"].replace("Z", "+00:00")), now=now_here())
    warnings = run_time["warnings"]
    return f"{said} (warned: less than {duration(warnings[0]['threshold_s'])})" if warnings else said


def _thresholds(own_s: list[int]) -> str:
    return ", ".join(str(duration(each)) for each in sorted({86_400, 3600, 600, *own_s}, reverse=True))
