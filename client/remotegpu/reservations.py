"""Advance reservations: GPUs set aside for a time, once or again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from remotegpu.models import Reservation, Reserved
from remotegpu.options import given
from remotegpu.transport import Transport

_PATH = "/customer/reservations"


class Reservations:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        *,
        starts_at: datetime,
        duration_s: int,
        gpus: int = 1,
        nodes: int = 1,
        gpu_models: Sequence[str] = (),
        gpu_memory_bytes: int = 0,
        selectors: Sequence[str] = (),
        driver: str | None = None,
        cuda: str | None = None,
        cpu_milli: int | None = None,
        memory_bytes: int | None = None,
        environment: str | None = None,
        every: str | None = None,
        count: int | None = None,
        until: datetime | None = None,
    ) -> Reserved:
        """Set GPUs aside: all of the times, or none. With `every` ("day" or "week") give `count` or `until`.

        `starts_at` and `until` know their time zone. `environment` is the id of one that is to run in it: the devices
        are on the host of its volume.

        Raises:
            Refused: the calendar is taken (the message says when it is not), or no host could ever bear it.
        """
        body = {
            "starts_at": starts_at.isoformat(),
            "duration_s": duration_s,
            "gpus": gpus,
            "nodes": nodes,
            "gpu_models": list(gpu_models),
            "gpu_memory_bytes": gpu_memory_bytes,
            "selectors": list(selectors),
            "driver": driver,
            "cuda": cuda,
            "cpu_milli": cpu_milli,
            "memory_bytes": memory_bytes,
            "environment": environment,
            "every": every,
            "count": count,
            "until": until.isoformat() if until is not None else None,
        }
        return self._transport.post(_PATH, Reserved, given(body))

    def list(self, *, over: bool | None = None) -> Iterator[Reservation]:
        """All of the customer's, newest first; `over`: only those whose end has passed, or has not."""
        return self._transport.pages(_PATH, Reservation, over=over)

    def get(self, reservation_id: str) -> Reservation:
        return self._transport.get(f"{_PATH}/{reservation_id}", Reservation)

    def cancel(self, reservation_id: str, *, series: bool = False) -> None:
        """Give back what lies ahead; with `series`, of all of its series."""
        self._transport.delete(f"{_PATH}/{reservation_id}", series=series or None)
