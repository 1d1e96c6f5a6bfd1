"""The signed-in user: profile, password, API keys, and what can be rented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from remotegpu.models import ApiKey, GpuOffer, Image, Json, Me
from remotegpu.transport import Transport


class Account:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def me(self) -> Me:
        return self._transport.get("/auth/me", Me)

    def change_password(self, *, current: str, new: str) -> None:
        body = {"current_password": current, "new_password": new}
        self._transport.post("/auth/password", type(None), body)

    def api_keys(self) -> Iterator[ApiKey]:
        return self._transport.pages("/customer/api-keys", ApiKey)

    def create_api_key(self, *, name: str, scopes: Sequence[str], expires_in_days: int | None = None) -> ApiKey:
        """The reply is the only one that carries the key itself."""
        body = {"name": name, "scopes": list(scopes), "expires_in_days": expires_in_days}
        return self._transport.post("/customer/api-keys", ApiKey, {k: v for k, v in body.items() if v is not None})

    def revoke_api_key(self, key_id: str) -> None:
        self._transport.delete(f"/customer/api-keys/{key_id}")

    def workspaces(self) -> Iterator[Json]:
        """Those of your customer, newest first."""
        return self._transport.pages("/customer/workspaces", Json)

    def create_workspace(self, name: str) -> Json:
        """Another workspace of your customer.

        Raises:
            Refused: the name is taken, or you don't own the customer's account.
        """
        return self._transport.post("/customer/workspaces", Json, {"name": name})

    def quota(self, workspace: str | None = None) -> Json:
        """The tightest limits that apply to you, with what is used; in this workspace, or in the default one."""
        return self._transport.get("/customer/quota", Json, workspace=workspace)

    def offers(self) -> Iterator[GpuOffer]:
        return self._transport.pages("/customer/machines", GpuOffer)

    def images(self) -> Iterator[Image]:
        return self._transport.pages("/customer/images", Image)
