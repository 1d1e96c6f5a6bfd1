"""Balance, usage and statement of the signed-in customer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from remotegpu.models import Balance, Json
from remotegpu.transport import Transport

_PATH = "/customer/billing"


class Billing:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def balance(self) -> Balance:
        return self._transport.get(f"{_PATH}/balance", Balance)

    def export(self, period: str) -> Iterator[bytes]:
        """The file by which the bill of a month, as 2026-11, can be checked: `remotegpu.bill.verify`."""
        return self._transport.download(f"{_PATH}/bill", period=period)

    def heads(self) -> Iterator[Json]:
        """The signed heads of the chain of usage records, newest first."""
        return self._transport.pages(f"{_PATH}/heads", Json)

    def keys(self) -> list[Json]:
        """The platform's public keys that verify bills, the newest first; `public_key` is in PEM."""
        found: list[Json] = self._transport.get("/billing/keys", Json)["keys"]
        return found

    def run_time(self) -> Json:
        """How long the money lasts for what runs (`runs_out_at`), and the warnings that stand."""
        return self._transport.get(f"{_PATH}/run-time", Json)

    def warn_before(self, thresholds_s: list[int]) -> Json:
        """The run times left at which to be warned, beside a day, an hour and 10 minutes."""
        return self._transport.put(f"{_PATH}/warn-before", Json, {"warn_before_s": thresholds_s})

    def warnings(self) -> Iterator[Json]:
        """Every warning there was, newest first."""
        return self._transport.pages(f"{_PATH}/warnings", Json)

    def promotions(self) -> Iterator[Json]:
        """Credit that was given, with what is left of it, newest first."""
        return self._transport.pages(f"{_PATH}/promotions", Json)

    def usage(self) -> Iterator[Json]:
        """Intervals of proven running time, newest first."""
        return self._transport.pages(f"{_PATH}/usage", Json)

    def statement(self, *, start: datetime | None = None, end: datetime | None = None) -> Json:
        """Every line (environment, GPU model, price version, duration, amount) and the totals of a period."""
        params = {"from": start.isoformat() if start else None, "to": end.isoformat() if end else None}
        statement = self._transport.get(f"{_PATH}/statement", Json, **params)
        # The rest of the same period: by default it ends "now", which the next page must not take anew.
        period = {"from": statement["from"], "to": statement["to"]}
        while (cursor := statement.pop("next_cursor", None)) is not None:
            page = self._transport.get(f"{_PATH}/statement", Json, **period, cursor=cursor)
            statement["lines"] += page["lines"]
            statement["next_cursor"] = page.get("next_cursor")
        return statement
