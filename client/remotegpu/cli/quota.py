"""`remotegpu quota`, `remotegpu admin quota` and `remotegpu admin plan`: limits, with what is used of them."""

from __future__ import annotations

from typing import Annotated

import typer

from remotegpu.cli import limits
from remotegpu.cli.output import JsonFlag, console, print_json, print_rows
from remotegpu.cli.session import connected
from remotegpu.client import Client
from remotegpu.errors import NotFound
from remotegpu.models import Json

app = typer.Typer(help="What you may have at most, and what is used of it.", no_args_is_help=True)
admin = typer.Typer(help="Limits of customers, their workspaces and users.", no_args_is_help=True)
plans = typer.Typer(help="Limits of all customers that have a plan.", no_args_is_help=True)

Workspace = Annotated[str | None, typer.Option("--workspace", help="Of this workspace of the customer.")]
User = Annotated[str | None, typer.Option("--user", help="Of this user of the customer.")]
Given = Annotated[
    list[str],
    typer.Argument(metavar="NAME=VALUE...", help=f"{limits.NAMES}, or a GPU model; no value takes the limit away."),
]


@app.command("show")
def show(
    context: typer.Context,
    workspace: Annotated[str | None, typer.Option("--workspace", help="In this one, not the default one.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the tightest limits that apply to you, each with what is used."""
    with connected(context) as client:
        found = client.account.quota(workspace)
        print_json(found) if as_json else _print(found)


@admin.command("show")
def show_any(
    context: typer.Context, customer: str, workspace: Workspace = None, user: User = None, as_json: JsonFlag = False
) -> None:
    """Show the limits that apply to a customer, or to a workspace or user of it."""
    with connected(context) as client:
        found = client.admin.quota(_whose(client, customer, workspace, user))
        print_json(found) if as_json else _print(found)


@admin.command("set")
def set_any(
    context: typer.Context,
    customer: str,
    given: Given,
    workspace: Workspace = None,
    user: User = None,
    as_json: JsonFlag = False,
) -> None:
    """Set the limits that are given, of a customer or of a workspace or user of it; the others stay."""
    with connected(context) as client:
        whose = _whose(client, customer, workspace, user)
        now = client.admin.quota(whose)
        found = client.admin.set_quota(whose, limits.changed(now, given))
        print_json(found) if as_json else _print(found)


@plans.command("set")
def set_plan(context: typer.Context, name: str, given: Given, as_json: JsonFlag = False) -> None:
    """Make a plan, or change the limits of one that are given, for all who have it."""
    with connected(context) as client:
        now = next((each for each in client.admin.list("plans") if each["name"] == name), {})
        found = client.admin.put_plan(name, limits.changed(now, given))
        print_json(found) if as_json else console.print(f"{name}: {limits.said(found)}")


@plans.command("list")
def list_plans(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the plans."""
    with connected(context) as client:
        found = list(client.admin.list("plans"))
        if as_json:
            print_json(found)
            return
        rows = [(each["name"], each["customers"], limits.said(each)) for each in found]
        print_rows(["NAME", "CUSTOMERS", "LIMITS"], rows, empty="There are no plans.")


@plans.command("remove")
def remove_plan(context: typer.Context, name: str, as_json: JsonFlag = False) -> None:
    """Take a plan away that no customer has."""
    with connected(context) as client:
        client.admin.remove_plan(name)
        print_json({"name": name, "deleted": True}) if as_json else console.print(f"The plan {name} is gone.")


@plans.command("give")
def give_plan(
    context: typer.Context,
    customer: str,
    plan: Annotated[str | None, typer.Argument(help="Its name; left out, the customer has none.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a customer a plan, whose limits apply where it has none of its own."""
    with connected(context) as client:
        found = client.admin.give_plan(_customer_id(client, customer), plan)
        print_json(found) if as_json else _print(found)


def _whose(client: Client, customer: str, workspace: str | None, user: str | None) -> str:
    """The path of whose limits are meant."""
    if workspace is not None and user is not None:
        raise typer.BadParameter("give a workspace or a user, not both")
    customer_id = _customer_id(client, customer)
    if user is None:
        return f"customers/{customer_id}" + ("" if workspace is None else f"/workspaces/{workspace}")
    people = client.admin.list("users", customer_id=customer_id)
    person = next((each for each in people if user in (each["id"], each["username"])), None)
    if person is None:
        raise NotFound(status=404, code="not_found", detail=f"The customer has no user {user!r}.")
    return f"users/{person['id']}"


def _customer_id(client: Client, customer: str) -> str:
    found = client.admin.find_customer(customer)
    if found is None:
        detail = f"There is no customer {customer!r}; see remotegpu admin customer list."
        raise NotFound(status=404, code="not_found", detail=detail)
    return str(found["id"])


def _print(quota: Json) -> None:
    if quota["plan"] is not None:
        console.print(f"Plan {quota['plan']}")
    rows = limits.rows(quota["effective"])
    print_rows(["WHAT", "USED", "LIMIT", "WHOSE"], rows, empty="Nothing is limited, and nothing is used.")
