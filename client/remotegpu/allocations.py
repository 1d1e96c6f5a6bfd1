"""What-if: when and where a request would start, and what it would cost; and what requests may be charged to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from remotegpu.models import Json, Plan
from remotegpu.options import SchedulingOptions, given
from remotegpu.transport import Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Allocations:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def plan(
        self,
        *,
        gpus: int = 1,
        nodes: int = 1,
        within: str | None = None,
        image: str | None = None,
        cpu_milli: int | None = None,
        memory_bytes: int | None = None,
        workspace: str | None = None,
        **options: Unpack[SchedulingOptions],
    ) -> Plan:
        """When and where this would start, on each of `nodes` hosts. Nothing is queued.

        `within` is the host label whose value all of the hosts must share.

        Raises:
            Refused: it names what does not exist.
            ServerFailed: no controller is there to answer now.
        """
        body = {
            "gpus": gpus,
            "nodes": nodes,
            "within": within,
            "image": image,
            "cpu_milli": cpu_milli,
            "memory_bytes": memory_bytes,
            "workspace": workspace,
        }
        return self._transport.post("/customer/allocations/plan", Plan, given({**body, **options}))

    def checkpoint(self, allocation_id: str) -> None:
        """Say that its work is safe up to now, so that less is lost if it has to give way.

        Raises:
            Refused: it does not run.
        """
        self._transport.post(f"/customer/allocations/{allocation_id}/checkpoint", Json)

    def capacity_groups(self) -> Iterator[Json]:
        """The groups that requests may be charged to, with what is held in each."""
        return self._transport.pages("/customer/capacity-groups", Json)
