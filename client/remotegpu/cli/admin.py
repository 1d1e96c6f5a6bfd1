"""`remotegpu admin`: customers, prices, machines, allocations."""

from __future__ import annotations

from typing import Annotated

import typer

from remotegpu.cli import capacity, limits, machines, prices, quota
from remotegpu.cli import money as moving
from remotegpu.cli.customers import find_customer
from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_json_line, print_rows
from remotegpu.cli.session import connected
from remotegpu.cli.task_output import LogOutput
from remotegpu.cli.units import money, parse_money
from remotegpu.errors import NotFound
from remotegpu.models import Json

app = typer.Typer(help="For the platform's administrators.", no_args_is_help=True)
customer = typer.Typer(help="Customers: their owners and money.", no_args_is_help=True)
app.add_typer(customer, name="customer")
app.add_typer(quota.admin, name="quota")
app.add_typer(quota.plans, name="plan")
app.add_typer(prices.app, name="price")
app.add_typer(machines.app, name="machine")
app.add_typer(capacity.app, name="capacity-group")
customer.command()(moving.refund)
customer.command()(moving.transfer)
customer.command()(moving.adjust)
customer.command()(moving.credit)
customer.command()(moving.promote)


@customer.command("create")
def create_customer(
    context: typer.Context,
    name: str,
    owner: Annotated[str, typer.Option("--owner", help="User name of its owner.")],
    email: Annotated[str | None, typer.Option("--email")] = None,
    balance: Annotated[str | None, typer.Option("--balance", help="Starting balance, for example 100.00.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Create a customer with an owner, whose first password is shown once."""
    amount_micro = parse_money(balance) if balance is not None else None
    with connected(context) as client:
        created = client.admin.create_customer(name=name, owner=owner, email=email)
        if amount_micro:
            client.admin.top_up(created["id"], amount_micro=amount_micro, note="starting balance")
        if as_json:
            print_json(created)
            return
        person = created.get("owner", {})
        console.print(f"Customer {created['name']} ({created['id']})")
        console.print(f"Owner {person.get('username')}, first password: {person.get('password')}", soft_wrap=True)


@customer.command("list")
def list_customers(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the customers."""
    with connected(context) as client:
        found = list(client.admin.list("customers"))
        if as_json:
            print_json(found)
            return
        rows = [(c["name"], c["id"], c.get("currency"), c.get("disabled_at")) for c in found]
        print_rows(["NAME", "ID", "CURRENCY", "DISABLED"], rows, empty="There are no customers.")


@customer.command("show")
def show_customer(context: typer.Context, name: str, as_json: JsonFlag = False) -> None:
    """Show one customer with its balance and limits."""
    with connected(context) as client:
        found = find_customer(client, name)
        balance, found_quota = client.admin.balance(found["id"]), client.admin.quota(f"customers/{found['id']}")
        if as_json:
            print_json({**found, "balance": balance, "quota": found_quota})
            return
        currency = balance.get("currency")
        print_fields(
            [
                ("name", found["name"]),
                ("id", found["id"]),
                ("balance", money(balance["balance_micro"], currency)),
                ("held", money(balance["held_micro"], currency)),
                ("may owe", money(balance.get("credit_limit_micro", 0), currency)),
                ("plan", found_quota["plan"]),
                ("own limits", limits.said(found_quota)),
                ("weight", found.get("weight")),
                ("priority at most", found.get("priority_ceiling")),
                ("disabled", found.get("disabled_at")),
            ]
        )


@customer.command("top-up")
def top_up(
    context: typer.Context,
    name: str,
    amount: Annotated[str, typer.Argument(help="For example 100.00.")],
    note: Annotated[str | None, typer.Option("--note")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Add to a customer's balance."""
    amount_micro = parse_money(amount)
    with connected(context) as client:
        found = find_customer(client, name)
        client.admin.top_up(found["id"], amount_micro=amount_micro, note=note)
        balance = client.admin.balance(found["id"])
        if as_json:
            print_json(balance)
        else:
            console.print(f"Balance {money(balance['balance_micro'], balance.get('currency'))}")


@customer.command("set")
def set_customer(
    context: typer.Context,
    name: str,
    weight: Annotated[float | None, typer.Option("--weight", help="Its share beside others' in fair sharing.")] = None,
    priority: Annotated[
        int | None, typer.Option("--priority-ceiling", help="The most that its people may ask for, to 1000.")
    ] = None,
    new_name: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Change what is given of a customer."""
    given = {"weight": weight, "priority_ceiling": priority, "name": new_name}
    with connected(context) as client:
        changes = {key: value for key, value in given.items() if value is not None}
        changed = client.admin.change_customer(find_customer(client, name)["id"], changes)
        if as_json:
            print_json(changed)
            return
        weighs, ceiling = changed["weight"], changed["priority_ceiling"]
        console.print(f"{changed['name']}: weight {weighs:g}, priority at most {ceiling}")


@customer.command("disable")
def disable(context: typer.Context, name: str, as_json: JsonFlag = False) -> None:
    """Refuse its users and stop what it runs, in order."""
    with connected(context) as client:
        changed = client.admin.disable_customer(find_customer(client, name)["id"])
        print_json(changed) if as_json else console.print("Disabled; what it runs is being stopped.")


@customer.command("enable")
def enable(context: typer.Context, name: str, as_json: JsonFlag = False) -> None:
    """Let its users in again."""
    with connected(context) as client:
        changed = client.admin.enable_customer(find_customer(client, name)["id"])
        print_json(changed) if as_json else console.print("Enabled.")


@app.command("allocations")
def allocations(
    context: typer.Context,
    state: Annotated[str | None, typer.Option("--state", help="As queued or active.")] = None,
    customer: Annotated[str | None, typer.Option("--customer", help="Of this customer only.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="On this machine only, now or at last.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the allocations, newest first, and why those wait that do."""
    with connected(context) as client:
        customer_id = find_customer(client, customer)["id"] if customer is not None else None
        host_id = machines.find(client, host)["id"] if host is not None else None
        found = list(client.admin.list("allocations", state=state, customer=customer_id, host=host_id))
        if as_json:
            print_json(found)
            return
        rows = [(a["id"], a["state"], a.get("customer"), a.get("host"), _why(a)) for a in found]
        print_rows(["ID", "STATE", "CUSTOMER", "HOST", "WHY"], rows, empty="There are no allocations.")


def _why(allocation: Json) -> str | None:
    """It waits, or has ended."""
    wait = allocation.get("wait")
    return wait["detail"] if wait else allocation.get("end_reason")


@app.command("end-allocation")
def end_allocation(context: typer.Context, allocation_id: str, as_json: JsonFlag = False) -> None:
    """End an allocation, whatever runs in it."""
    with connected(context) as client:
        ending = client.admin.end_allocation(allocation_id)
        print_json(ending) if as_json else console.print("Ending.")


@app.command("task-logs")
def task_logs(
    context: typer.Context,
    task_id: str,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Of that attempt; default: the newest.")] = None,
    rank: Annotated[int, typer.Option("--rank", help="Of that node.", min=0)] = 0,
    element: Annotated[int | None, typer.Option("--element", help="Of that element of an array.", min=0)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print what a customer's task has written up to now. That you did is in the audit."""
    output = LogOutput()
    with connected(context) as client:
        for record in client.admin.task_output(task_id, attempt=attempt, rank=rank, element=element):
            print_json_line(record) if as_json else output.write(record)


@app.command("audit")
def audit(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show who changed what, newest first."""
    with connected(context) as client:
        found = list(client.admin.list("audit"))
        if as_json:
            print_json(found)
            return
        rows = [(e["at"], e["actor"], e["action"], e["target"]) for e in found]
        print_rows(["AT", "WHO", "WHAT", "TARGET"], rows, empty="Nothing has been recorded.")


@app.command("reset-password")
def reset_password(context: typer.Context, username: str, as_json: JsonFlag = False) -> None:
    """Give a user a new first password, shown once; the sessions end."""
    with connected(context) as client:
        user = next((u for u in client.admin.list("users") if username in (u["id"], u["username"])), None)
        if user is None:
            raise NotFound(status=404, code="not_found", detail=f"There is no user {username!r}.")
        reply = client.admin.reset_password(user["id"])
        print_json(reply) if as_json else console.print(reply["password"], soft_wrap=True)
