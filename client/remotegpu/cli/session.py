"""What every command shares: the options of the whole program, a signed-in client, and errors as exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from remotegpu.client import Client
from remotegpu.errors import ApiError, ConnectionFailed, NotAllowed, NotFound, NotSignedIn, Refused, RemoteGpuError
from remotegpu.profile import Profile, load_profile, save_profile

errors = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    FAILED = 1
    NOT_ALLOWED = 3
    NOT_FOUND = 4
    REFUSED = 5
    UNREACHABLE = 6


@dataclass
class Options:
    """Options before the command: where to go and who to be."""

    address: str | None = None
    api_key: str | None = None


def exit_code(error: RemoteGpuError) -> Exit:
    if isinstance(error, NotSignedIn | NotAllowed):
        return Exit.NOT_ALLOWED
    if isinstance(error, NotFound):
        return Exit.NOT_FOUND
    if isinstance(error, Refused):
        return Exit.REFUSED
    return Exit.UNREACHABLE if isinstance(error, ConnectionFailed) else Exit.FAILED


def fail(error: RemoteGpuError) -> NoReturn:
    hint = ""
    if isinstance(error, ApiError) and error.code == "password_change_required":
        hint = "\n  remotegpu password"
    elif isinstance(error, NotSignedIn):
        hint = "\n  remotegpu login ADDRESS"
    errors.print(f"[red]error:[/red] {escape(str(error))}{hint}", soft_wrap=True)
    sys.exit(exit_code(error))


@contextmanager
def reported() -> Iterator[None]:
    """Turn the SDK's errors into a line on stderr and an exit code."""
    try:
        yield
    except RemoteGpuError as error:
        fail(error)


@contextmanager
def connected(context: typer.Context) -> Iterator[Client]:
    """A client with the identity of the options, the environment or the kept profile, in that order."""
    options: Options = context.obj
    with reported():
        profile = load_profile()
        address = options.address or (profile.address if profile else None)
        if options.api_key is not None or profile is None or profile.address != address:
            client = Client(address, api_key=options.api_key)
        else:
            kept = profile.address
            client = Client(
                address, tokens=profile.tokens, on_tokens=lambda tokens: save_profile(Profile(kept, tokens))
            )
        with client:
            yield client
