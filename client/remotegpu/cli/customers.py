"""Customers as an administrator names them."""

from __future__ import annotations

from remotegpu.client import Client
from remotegpu.errors import NotFound
from remotegpu.models import Json


def find_customer(client: Client, name: str) -> Json:
    """By name or id.

    Raises:
        NotFound
    """
    found = client.admin.find_customer(name)
    if found is None:
        detail = f"There is no customer {name!r}; see remotegpu admin customer list."
        raise NotFound(status=404, code="not_found", detail=detail)
    return found
