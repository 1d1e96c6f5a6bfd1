"""What a cycle decides, and the protocol of who decides it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from scheduler.plan_protocol import PlanAnswer
from scheduler.ports import Changes, Eviction, Placement, WaitReason
from scheduler.views import Request


@dataclass(frozen=True, slots=True)
class Plan:
    """What starts, what gives way, and why others wait: the reasons that are new or have changed, by allocation id.

    `unfinished`: the cycle has reached its bound of work; the next one goes on where it ended, and should come at once.
    """

    placements: Sequence[Placement] = ()
    evictions: Sequence[Eviction] = ()
    waits: Mapping[int, WaitReason] = field(default_factory=dict)
    unfinished: bool = False


class Decider(Protocol):
    """Keeps what it needs to know in memory. Deterministic: the same calls give the same plans."""

    def update(self, changes: Changes, now: datetime) -> None:
        """Take in what the store says is new. `complete` changes make it forget all else."""

    def decide(self, now: datetime) -> Plan:
        """What to do now, but for the reasons of those that wait. The decider counts on it: until the store says
        otherwise, what it placed is taken.
        """

    def reasons(self) -> Mapping[int, WaitReason]:
        """`Plan.waits` of what was decided last: they are for people, so what starts need not wait for them. To be had
        once after each decision, before anything else is told."""

    def what_if(self, request: Request, now: datetime) -> PlanAnswer:
        """When and where this request would start, without queueing it; nothing is changed."""

    def refused(self, reasons: Mapping[int, WaitReason]) -> None:
        """The store did not take these placements, for these reasons: undo them.

        With a limit's code ("quota", "balance", ...) the request, and the customer's others that need no less, wait
        until something about that customer changes; otherwise it is decided anew.
        """
