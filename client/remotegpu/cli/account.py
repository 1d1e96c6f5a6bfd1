"""Signing in and out, the profile, API keys, and what can be rented."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from remotegpu.cli.output import JsonFlag, console, print_fields, print_json, print_rows
from remotegpu.cli.session import Options, connected, errors, reported
from remotegpu.cli.units import memory, money
from remotegpu.client import Client
from remotegpu.errors import RemoteGpuError
from remotegpu.profile import Profile, load_profile, save_profile

keys = typer.Typer(help="API keys for programs.", no_args_is_help=True)

PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]


def _password(prompt: str, *, stdin: bool, confirm: bool = False) -> str:
    if stdin:
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def login(
    context: typer.Context,
    address: Annotated[str | None, typer.Argument(help="The platform's address, http(s)://HOST:PORT.")] = None,
    username: Annotated[str | None, typer.Option("--username", "-u")] = None,
    password_stdin: PasswordStdin = False,
    as_json: JsonFlag = False,
) -> None:
    """Sign in and keep the session."""
    options: Options = context.obj
    with reported():
        kept = load_profile()
        address = address or options.address or (kept.address if kept else None)
        username = username or str(typer.prompt("Username", err=True))
        password = _password("Password", stdin=password_stdin)
        with Client(address) as client:
            tokens = client.sign_in(username, password)
            assert address is not None  # the client has refused it otherwise
            save_profile(Profile(address.rstrip("/"), tokens))
            if tokens.must_change_password:
                errors.print("This is a first password: choose one of your own.")
                new = _password("New password", stdin=password_stdin, confirm=True)
                client.account.change_password(current=password, new=new)
                save_profile(Profile(address.rstrip("/"), client.sign_in(username, new)))
            me = client.account.me() if as_json else None
        print_json(me) if as_json else console.print(f"Signed in to {address} as {username}.")


def password(context: typer.Context, password_stdin: PasswordStdin = False, as_json: JsonFlag = False) -> None:
    """Change your password."""
    with connected(context) as client:
        me = client.account.me()
        current = _password("Current password", stdin=password_stdin)
        new = _password("New password", stdin=password_stdin, confirm=True)
        client.account.change_password(current=current, new=new)
        client.sign_in(me.username, new)
        print_json({"changed": True}) if as_json else console.print("Your password is changed.")


def logout(context: typer.Context, as_json: JsonFlag = False) -> None:
    """End the session and forget it."""
    with connected(context) as client:
        profile = load_profile()
        if profile is None or profile.tokens is None:
            raise RemoteGpuError("There is no session to end.")
        client.sign_out()
        save_profile(Profile(profile.address))
        print_json({"signed_out": True}) if as_json else console.print("Signed out.")


def whoami(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show who you are."""
    with connected(context) as client:
        me = client.account.me()
        if as_json:
            print_json(me)
            return
        print_fields(
            [
                ("user", me.username),
                ("role", me.role),
                ("customer", me.customer.name if me.customer else None),
                ("email", me.email),
            ]
        )


def hosts(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the GPU models that can be rented, how many are free, and their price."""
    with connected(context) as client:
        offers = list(client.account.offers())
        if as_json:
            print_json(offers)
            return
        print_rows(
            ["MODEL", "MEMORY", "FREE", "TOTAL", "PRICE PER GPU-HOUR", ""],
            [
                (
                    offer.gpu_model,
                    memory(offer.memory_bytes),
                    offer.free,
                    offer.total,
                    money(offer.price_micro_per_gpu_hour, offer.currency),
                    "simulated" if offer.simulated else "",
                )
                for offer in offers
            ],
            empty="No GPU can be rented at present.",
        )


def images(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the images that an environment can start."""
    with connected(context) as client:
        found = list(client.account.images())
        if as_json:
            print_json(found)
            return
        rows = [(image.name, image.framework, image.version, image.cuda, image.description) for image in found]
        print_rows(["NAME", "FRAMEWORK", "VERSION", "CUDA", "DESCRIPTION"], rows, empty="There are no images.")


@keys.command("create")
def create_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option("--scope", help="What it may do; may be repeated.")],
    days: Annotated[int | None, typer.Option("--days", help="How long it is valid.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an API key. It is shown once."""
    with connected(context) as client:
        key = client.account.create_api_key(name=name, scopes=scope, expires_in_days=days)
        print_json(key) if as_json else console.print(key.key, soft_wrap=True)


@keys.command("list")
def list_keys(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show your API keys."""
    with connected(context) as client:
        found = list(client.account.api_keys())
        if as_json:
            print_json(found)
            return
        rows = [(k.id, k.name, k.prefix, " ".join(k.scopes), k.expires_at, k.revoked_at) for k in found]
        print_rows(["ID", "NAME", "PREFIX", "SCOPES", "EXPIRES", "REVOKED"], rows, empty="You have no API keys.")


@keys.command("revoke")
def revoke_key(context: typer.Context, key_id: str, as_json: JsonFlag = False) -> None:
    """Make an API key invalid, at once and for good."""
    with connected(context) as client:
        client.account.revoke_api_key(key_id)
        print_json({"id": key_id, "revoked": True}) if as_json else console.print("Revoked.")
