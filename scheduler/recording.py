"""What the decider was told and what it decided, so that the same can be had again."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from scheduler.plan import Plan
from scheduler.ports import Changes, WaitReason


class Recorder(Protocol):
    """Is told everything that the decider is told, and what it answers, in that order."""

    @property
    def wants_complete(self) -> bool:
        """The next changes have to be complete: a recording begins there."""

    def updated(self, changes: Changes, now: datetime) -> None: ...

    def decided(self, plan: Plan, now: datetime) -> None: ...

    def refused(self, reasons: Mapping[int, WaitReason], now: datetime) -> None: ...
