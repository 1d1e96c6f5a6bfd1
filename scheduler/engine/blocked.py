"""Why a line waits, and for how long that needs no second look."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from scheduler.ports import WaitReason
from scheduler.quota import Lack


class Code(StrEnum):
    """Stable: programs may rely on them."""

    NO_CAPACITY = "no_capacity"  # what fits is in use
    BEHIND_OTHERS = "behind_others"  # what is free is kept for who comes before
    BOUND_HOST_BUSY = "bound_host_busy"
    BOUND_HOST_UNAVAILABLE = "bound_host_unavailable"
    HOST_NOT_AVAILABLE = "host_not_available"  # no host that could run it takes new work
    CAPACITY_GROUP = "capacity_group"  # its group's share, and what it may borrow, are in use
    QUOTA = "quota"
    BALANCE = "balance"
    NO_PRICE = "no_price"
    RESERVED = "reserved"  # what is free is kept for an advance reservation
    RESERVATION = "reservation"  # its own reservation has not begun, or others of it fill it
    PREEMPTING = "preempting"  # its place is being cleared
    NOT_REACHED = "not_reached"  # the cycle ended before its turn; the next begins with it


LIMITS = frozenset({Code.QUOTA, Code.BALANCE, Code.NO_PRICE})


KEPT = frozenset({Code.BEHIND_OTHERS, Code.RESERVED})
"""What is free is kept for somebody else."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What a verdict rests on: as long as it is the same, so is the verdict. `released` counts the places that are kept
    no longer."""

    freed: int
    group_freed: int
    customer: int
    released: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """A verdict on a line. `until`: it is to be looked at again then, whatever else has happened. `lack` is the limit
    of a quota that stands against it.
    """

    code: Code
    detail: str
    epoch: Epoch
    figures: Mapping[str, int] | None = None
    until: datetime | None = None
    eta: datetime | None = None
    eta_basis: str = "unknown"
    lack: Lack | None = None

    def stands(self, epoch: Epoch, now: datetime) -> bool:
        before = self.epoch
        if before.customer != epoch.customer or (self.until is not None and now >= self.until):
            return False
        if self.code in LIMITS:
            return True
        if before.group_freed != epoch.group_freed:
            return False
        if self.code is Code.CAPACITY_GROUP:  # what becomes free elsewhere does not help
            return True
        return before.freed == epoch.freed and (self.code not in KEPT or before.released == epoch.released)

    def reason(self, position: int, *, first: bool, pace_s: float | None, now: datetime) -> WaitReason:
        """For the request at that place. Those behind the first of a line have no time of their own, but a pace:
        how long, lately, it has taken from one start to the next.
        """
        eta, basis = self.eta, self.eta_basis
        if not first or eta is None:
            eta, basis = None, "unknown"
            if pace_s is not None and self.code in _BY_PACE:
                start = self.eta if self.eta is not None else now
                eta, basis = _rounded(start + timedelta(seconds=pace_s * position)), "history"
        return WaitReason(self.code, self.detail, position, self.figures, eta, basis)


NOT_REACHED = Blocked(Code.NOT_REACHED, "Its turn comes in a moment.", Epoch(0, 0, 0, 0))
_BY_PACE = frozenset({Code.NO_CAPACITY, Code.BEHIND_OTHERS, Code.RESERVED, Code.CAPACITY_GROUP, Code.PREEMPTING})


def _rounded(moment: datetime) -> datetime:
    """To the minute, so that a guess is not written anew every second."""
    return moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
