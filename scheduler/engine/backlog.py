"""The requests that wait, in lines of equivalent ones: what is true of a line's first is true of all behind it."""

import heapq
from collections.abc import Iterator, Set
from dataclasses import dataclass, field, replace
from datetime import datetime

from scheduler.demand import Demand
from scheduler.engine.blocked import NOT_REACHED, Blocked
from scheduler.views import Request


@dataclass(frozen=True, slots=True)
class Kind:
    """All of a request but who came when. `alone` is the id of a request that stands in a line of its own; `user_id` is
    named if the user has limits that others have not.
    """

    customer_id: int
    workspace_id: int
    group: str | None
    priority: int
    demand: Demand
    preemptible: bool
    min_runtime_s: int
    limit_s: int | None
    hold_s: int
    reservation_id: int | None
    task: bool
    user_id: int | None
    alone: int | None = None

    @staticmethod
    def of(request: Request, apart: Set[int] = frozenset()) -> "Kind":
        """`apart` are users who have limits of their own."""
        return Kind(
            request.customer_id,
            request.workspace_id,
            request.group,
            request.priority,
            request.demand,
            request.preemptible,
            request.min_runtime_s,
            request.limit_s,
            request.hold_s,
            request.reservation_id,
            request.task,
            request.user_id if request.user_id in apart else None,
        )


Place = tuple[datetime, int]  # when it came, and its id: unique, and the order inside a line


@dataclass(slots=True)
class Line:
    """The requests of one kind, in the order in which they came."""

    kind: Kind
    requests: dict[int, Request] = field(default_factory=dict)
    verdict: Blocked | None = None  # the last one, which may stand no longer
    unreached: bool = False  # the last cycle ended before its turn
    models: tuple[str, ...] | None = None  # exact ones with which it could run, until a host changes
    told: Blocked | None = None  # the verdict that those who wait were told last,
    untold: list[Request] = field(default_factory=list)  # and who came after
    _heap: list[Place] = field(default_factory=list)

    @property
    def current(self) -> Blocked:
        """What is true of those who wait now."""
        return NOT_REACHED if self.unreached or self.verdict is None else self.verdict

    def add(self, request: Request) -> None:
        self.requests[request.allocation_id] = request
        self.untold.append(request)
        heapq.heappush(self._heap, place(request))

    def head(self) -> Request | None:
        while self._heap:
            queued_at, allocation_id = self._heap[0]
            request = self.requests.get(allocation_id)
            if request is not None and request.queued_at == queued_at:
                return request
            heapq.heappop(self._heap)
        return None

    def first(self, count: int) -> list[Request]:
        """The first in order; `count` is small."""
        return heapq.nsmallest(count, self.requests.values(), key=place)

    def in_order(self) -> list[Request]:
        return sorted(self.requests.values(), key=place)


@dataclass(slots=True)
class Backlog:
    """Lines by kind; and apart from them those that back off after a failed placement, until it is their time."""

    lines: dict[Kind, Line] = field(default_factory=dict)
    _kinds: dict[int, Kind] = field(default_factory=dict)
    _asleep: dict[int, Request] = field(default_factory=dict)
    _alone: dict[int, Line] = field(default_factory=dict)
    _apart: dict[int, Set[int]] = field(default_factory=dict)  # users of customers

    def __len__(self) -> int:
        return len(self._kinds) + len(self._asleep)

    def __contains__(self, allocation_id: int) -> bool:
        return allocation_id in self._kinds or allocation_id in self._asleep

    def put(self, request: Request, now: datetime) -> bool:
        """Add a request, or take over its new values; whether anything was new."""
        if self.get(request.allocation_id) == request:
            return False
        self.remove(request.allocation_id)
        if request.not_before is not None and request.not_before > now:
            self._asleep[request.allocation_id] = request
            return True
        self._stand(request, self._kind(request))
        return True

    def get(self, allocation_id: int) -> Request | None:
        kind = self._kinds.get(allocation_id)
        return self._asleep.get(allocation_id) if kind is None else self.lines[kind].requests[allocation_id]

    def line(self, allocation_id: int) -> Line | None:
        kind = self._kinds.get(allocation_id)
        return None if kind is None else self.lines[kind]

    def set_alone(self, request: Request) -> Line:
        """From now on it does not stand before its equivalents: they have turns beside it. Returns its own line."""
        self.remove(request.allocation_id)
        line = self._stand(request, replace(self._kind(request), alone=request.allocation_id))
        self._alone[request.allocation_id] = line
        return line

    def join(self, request: Request) -> None:
        """It stands among its equivalents again."""
        self.remove(request.allocation_id)
        self._stand(request, self._kind(request))

    def tell_apart(self, customer_id: int, users: Set[int]) -> None:
        """From now on these users of a customer, and no others, stand in lines of their own."""
        if users == self._apart.get(customer_id, frozenset()):
            return
        self._apart[customer_id] = users
        mixed = [kind for kind in self.lines if kind.customer_id == customer_id and kind.alone is None]
        for kind in mixed:
            for request in list(self.lines[kind].requests.values()):
                if self._kind(request) != kind:
                    self.join(request)

    def _kind(self, request: Request) -> Kind:
        return Kind.of(request, self._apart.get(request.customer_id, frozenset()))

    def _stand(self, request: Request, kind: Kind) -> Line:
        self._kinds[request.allocation_id] = kind
        line = self.lines.get(kind)
        if line is None:
            line = self.lines[kind] = Line(kind)
        line.add(request)
        return line

    def alone(self) -> list[Request]:
        return [request for line in self._alone.values() for request in line.requests.values()]

    def remove(self, allocation_id: int) -> Request | None:
        asleep = self._asleep.pop(allocation_id, None)
        self._alone.pop(allocation_id, None)
        kind = self._kinds.pop(allocation_id, None)
        if kind is None:
            return asleep
        line = self.lines[kind]
        request = line.requests.pop(allocation_id)
        if not line.requests:
            del self.lines[kind]
        return request

    def wake(self, now: datetime) -> None:
        """Those whose time to back off is over stand in line again, at the place that they had."""
        due = [request for request in self._asleep.values() if request.not_before is None or request.not_before <= now]
        for request in due:
            del self._asleep[request.allocation_id]
            self.put(request, now)

    def asleep(self) -> Iterator[Request]:
        yield from sorted(self._asleep.values(), key=place)


def place(request: Request) -> Place:
    return request.queued_at, request.allocation_id
