"""Secrets of a workspace: set once, given to tasks that name them, and never shown again."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from remotegpu.account import Account
from remotegpu.models import Secret
from remotegpu.transport import Transport


class Secrets:
    def __init__(self, transport: Transport, account: Account) -> None:
        self._transport = transport
        self._account = account

    def set(self, name: str, value: str, *, workspace: str | None = None) -> Secret:
        """Make one, or replace its value: attempts that start from now on get the new one.

        Raises:
            Refused: the name is no variable's, the value is empty, too long or has a NUL character, ...
        """
        return self._transport.put(f"{self._path(workspace)}/{quote(name, safe='')}", Secret, {"value": value})

    def list(self, *, workspace: str | None = None) -> Iterator[Secret]:
        return self._transport.pages(self._path(workspace), Secret)

    def delete(self, name: str, *, workspace: str | None = None) -> None:
        self._transport.delete(f"{self._path(workspace)}/{quote(name, safe='')}")

    def _path(self, workspace: str | None) -> str:
        if workspace is None:
            workspace = next(str(each["name"]) for each in self._account.workspaces() if each["is_default"])
        return f"/customer/workspaces/{quote(workspace, safe='')}/secrets"
