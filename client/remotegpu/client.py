"""The SDK's entry point."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType

import httpx

from remotegpu.account import Account
from remotegpu.admin import Admin
from remotegpu.allocations import Allocations
from remotegpu.billing import Billing
from remotegpu.environments import Environments
from remotegpu.errors import RemoteGpuError
from remotegpu.models import Tokens
from remotegpu.reservations import Reservations
from remotegpu.secrets import Secrets
from remotegpu.tasks import Tasks
from remotegpu.transport import Transport
from remotegpu.uploads import Uploads
from remotegpu.volumes import Volumes


class Client:
    """A connection to a RemoteGPU platform, to be used as a context manager or closed.

    Args:
        address: the platform's public address; `REMOTEGPU_ADDRESS` if not given.
        api_key: `rgpu_...`; `REMOTEGPU_API_KEY` if neither it nor `tokens` are given.
        tokens: as `sign_in` returns them.
        on_tokens: called with each new pair of tokens.

    Raises:
        RemoteGpuError: no address is known.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        tokens: Tokens | None = None,
        on_tokens: Callable[[Tokens], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        address = address or os.environ.get("REMOTEGPU_ADDRESS")
        if not address:
            raise RemoteGpuError("No platform address: give one, or set REMOTEGPU_ADDRESS.")
        if api_key is None and tokens is None:
            api_key = os.environ.get("REMOTEGPU_API_KEY")
        self._transport = Transport(address, api_key=api_key, tokens=tokens, on_tokens=on_tokens, transport=transport)
        self.account = Account(self._transport)
        self.environments = Environments(self._transport)
        self.allocations = Allocations(self._transport)
        self.reservations = Reservations(self._transport)
        self.uploads = Uploads(self._transport)
        self.tasks = Tasks(self._transport, self.uploads)
        self.secrets = Secrets(self._transport, self.account)
        self.volumes = Volumes(self._transport)
        self.billing = Billing(self._transport)
        self.admin = Admin(self._transport)

    def sign_in(self, username: str, password: str) -> Tokens:
        return self._transport.sign_in(username, password)

    def sign_out(self) -> None:
        self._transport.sign_out()

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
