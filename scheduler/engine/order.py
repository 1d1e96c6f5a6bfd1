"""Who comes first: the higher priority, raised by ageing; then the customer, and inside one the workspace, with the
smaller fair share; then who came first. `turns` says what capacity groups change about that.
"""

from dataclasses import dataclass, field
from datetime import datetime

from scheduler.engine.backlog import Kind
from scheduler.engine.state import State
from scheduler.views import Request

Rank = tuple[int, float, float, datetime, int]


def aged_priority(request: Request, now: datetime, *, step_s: float, points: int) -> int:
    waited_s = max(0.0, (now - request.queued_at).total_seconds())
    return request.priority + points * int(waited_s // step_s)


@dataclass(slots=True)
class Order:
    """The order in one cycle. Shares are looked up once, and again when a customer has been given something.

    `version` rises when ranks have changed.
    """

    state: State
    now: datetime
    version: int = 0
    _customers: dict[int, float] = field(default_factory=dict)
    _workspaces: dict[tuple[int, int], float] = field(default_factory=dict)

    def rank(self, request: Request) -> Rank:
        settings = self.state.settings
        return (
            -aged_priority(request, self.now, step_s=settings.ageing_step_s, points=settings.ageing_points),
            self._customer(request.customer_id),
            self._workspace(request.customer_id, request.workspace_id),
            request.queued_at,
            request.allocation_id,
        )

    def turn(self, request: Request) -> tuple[bool, Rank]:
        """For comparing the first ones of groups."""
        return self.borrows(request), self.rank(request)

    def borrows(self, request: Request) -> bool:
        milli, preemptible = request.demand.gpu_milli, request.preemptible
        return milli > 0 and self.state.capacity.borrows(request.group, milli, preemptible=preemptible)

    def group(self, of: Request | Kind) -> str:
        return self.state.capacity.name(of.group)

    def given(self, kind: Kind) -> None:
        self.version += 1
        self._customers.pop(kind.customer_id, None)
        self._workspaces.pop((kind.customer_id, kind.workspace_id), None)

    def _customer(self, customer_id: int) -> float:
        if customer_id not in self._customers:
            weight = self.state.customer(customer_id).weight
            self._customers[customer_id] = self.state.shares.customer(customer_id, weight, self.now)
        return self._customers[customer_id]

    def _workspace(self, customer_id: int, workspace_id: int) -> float:
        key = customer_id, workspace_id
        if key not in self._workspaces:
            self._workspaces[key] = self.state.shares.workspace(customer_id, workspace_id, self.now)
        return self._workspaces[key]
