"""Whom a request may evict, apart from minimum runtimes.

By rank: what is preemptible and of lower rank (a lower priority, or the same and preemptible where the request is
not), as long as it is not within what another group owns; the open group owns nothing against who stays within its own.
Inside its own capacity group: whatever has a lower priority, if the group says so. By reclaiming: while it stays within
its own group's quota, what other groups of the cohort have borrowed, and preemptible work beyond the open group.

Rank is the priority as it was given, without ageing. It is a strict order, who reclaims never borrows, and what a group
uses of its own is not evicted by others, nor by rank what is partly of its own: so no two requests can evict each other
in turn.
"""

from dataclasses import dataclass

from scheduler.engine.capacity import OPEN, Capacity
from scheduler.engine.evictable import Class
from scheduler.views import CapacityGroup, Request


@dataclass(frozen=True, slots=True)
class EvictionRules:
    """As of what is used at the moment."""

    capacity: Capacity

    def allow(self, request: Request, other: Request | Class) -> bool:
        return self.outranks(request, other) or self.reclaims(request, other)

    def outranks(self, request: Request, other: Request | Class) -> bool:
        mine, theirs = self.capacity.name(request.group), self.capacity.name(other.group)
        if mine == theirs != OPEN and request.priority > other.priority:
            group = self.capacity.group(mine)
            return group is not None and (group.preempt_lower_priority or other.preemptible)
        if not other.preemptible or _rank(request) <= _rank(other):
            return False
        if mine == theirs or self._is_borrowed(theirs, other):
            return True
        return theirs == OPEN and not self._borrows(mine, request)

    def _is_borrowed(self, group: str, other: Request | Class) -> bool:
        """Whether its group keeps all of its own without it. Of a class, whether that may be so of some of it. What has
        no GPUs is its group's own as long as the group uses no more than that.
        """
        leaves = 1 if isinstance(other, Class) else max(1, other.demand.gpu_milli)
        return self.capacity.borrows(group, 1 - leaves)

    def reclaims(self, request: Request, other: Request | Class) -> bool:
        """What is its group's own, and was lent: inside the cohort, or to preemptible ones beyond the open group."""
        theirs = self.capacity.name(other.group)
        group = self._owner(request)
        if group is None or group.name == theirs or not self.capacity.borrows(theirs, 0):
            return False
        if theirs == OPEN:
            return other.preemptible
        return group.reclaim_within_cohort and theirs in self.capacity.cohort(group.name)

    def takes_own(self, request: Request, other: Request) -> bool:
        """Whether another group would be left with less than its own."""
        mine, theirs = self.capacity.name(request.group), self.capacity.name(other.group)
        return theirs not in (mine, OPEN) and not self._is_borrowed(theirs, other)

    def may_reclaim(self, request: Request) -> bool:
        """Whether what others of its cohort have borrowed, preemptible or not, has to give way to it."""
        group = self._owner(request)
        return group is not None and group.reclaim_within_cohort

    def _owner(self, request: Request) -> CapacityGroup | None:
        """Its group, if that owns what the request asks for. Groups own GPUs, and nothing else."""
        group = self.capacity.group(request.group)
        owns = group is not None and group.name != OPEN and request.demand.gpu_milli > 0
        return group if owns and not self._borrows(request.group, request) else None

    def _borrows(self, group: str | None, request: Request) -> bool:
        milli = request.demand.gpu_milli
        return milli > 0 and self.capacity.borrows(group, milli)


def _rank(request: Request | Class) -> tuple[int, bool]:
    return request.priority, not request.preemptible
