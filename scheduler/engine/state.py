"""All that the engine knows."""

from dataclasses import dataclass, field
from datetime import datetime

from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand
from scheduler.engine.backlog import Backlog, Kind, Line
from scheduler.engine.blocked import Blocked, Epoch
from scheduler.engine.capacity import Capacity
from scheduler.engine.fair_share import FairShare
from scheduler.engine.holdings import Holdings
from scheduler.engine.kept import Kept
from scheduler.engine.pace import Pace
from scheduler.engine.settings import EngineSettings
from scheduler.engine.tallies import Tallies
from scheduler.ports import WaitReason
from scheduler.views import CapacityGroup, CustomerView, Request, Reservation

_MOST_DEMANDS = 8192  # of which the models are remembered


@dataclass(frozen=True, slots=True)
class Refusal:
    """A limit by which the store has refused a request: it knows better than the engine."""

    request: Request
    verdict: Blocked

    def stands(self, now: datetime) -> bool:
        return self.verdict.until is None or now < self.verdict.until


@dataclass(slots=True)
class State:
    settings: EngineSettings
    cluster: Cluster
    holdings: Holdings
    capacity: Capacity
    shares: FairShare
    backlog: Backlog = field(default_factory=Backlog)
    pace: Pace = field(default_factory=Pace)
    groups: tuple[CapacityGroup, ...] = ()
    customers: dict[int, CustomerView] = field(default_factory=dict)
    customer_changes: dict[int, int] = field(default_factory=dict)
    reservations: dict[int, Reservation] = field(default_factory=dict)
    kept: dict[int, Kept] = field(default_factory=dict)  # by the id of the request that it is kept for
    released: int = 0  # rises whenever something is kept no longer: others may have it
    refusals: dict[int, list[Refusal]] = field(default_factory=dict)  # by customer, until something about it changes
    spent: dict[int, int] = field(default_factory=dict)  # of balances, in micro-units, since the last update
    models_of: dict[Demand, tuple[str, ...]] = field(default_factory=dict)
    said: dict[int, WaitReason] = field(default_factory=dict)
    said_at: datetime | None = None  # when everybody's place in the queue was last told

    @staticmethod
    def empty(settings: EngineSettings, cluster: Cluster) -> "State":
        capacity, shares = Capacity(), FairShare(settings.half_life_s)
        return State(settings, cluster, Holdings(cluster, capacity, shares, Tallies(cluster)), capacity, shares)

    def epoch(self, of: Request | Kind) -> Epoch:
        customer = self.customer_changes.get(of.customer_id, 0)
        return Epoch(self.holdings.freed, self.capacity.freed(of.group), customer, self.released)

    def customer(self, customer_id: int) -> CustomerView:
        return self.customers.get(customer_id) or CustomerView(customer_id)

    def set_customer(self, view: CustomerView) -> None:
        """What is known of a customer has changed, its limits too perhaps."""
        self.customers[view.customer_id] = view
        self.holdings.tallies.watch(view.customer_id, view.limited, self.holdings.all())
        self.backlog.tell_apart(view.customer_id, frozenset(view.users))
        self.customer_changed(view.customer_id)

    def models(self, demand: Demand) -> tuple[str, ...]:
        """The exact models with which the request could run now."""
        found = self.models_of.get(demand)
        if found is None:
            if len(self.models_of) >= _MOST_DEMANDS:
                self.models_of.clear()
            found = self.models_of[demand] = self.cluster.models(demand)
        return found

    def models_of_line(self, line: Line) -> tuple[str, ...]:
        if line.models is None:
            line.models = self.models(line.kind.demand)
        return line.models

    def hosts_changed(self) -> None:
        self.models_of.clear()
        for line in self.backlog.lines.values():
            line.models = line.verdict = None

    def end_reservations(self, now: datetime) -> None:
        """Forget those that are over: what was kept for them is free."""
        over = [number for number, reservation in self.reservations.items() if reservation.ends_at <= now]
        for number in over:
            del self.reservations[number]
        if over:
            self.holdings.freed += 1

    def spend(self, customer_id: int, micro: int) -> None:
        """So much of the balance is taken until the store says how much is left; given back, if it is negative."""
        self.spent[customer_id] = self.spent.get(customer_id, 0) + micro

    def customer_changed(self, customer_id: int) -> None:
        self.refusals.pop(customer_id, None)
        self.look_again(customer_id)

    def look_again(self, customer_id: int) -> None:
        """Verdicts on requests of the customer do not stand any more."""
        self.customer_changes[customer_id] = self.customer_changes.get(customer_id, 0) + 1

    def stop_keeping(self, allocation_id: int) -> None:
        if self.kept.pop(allocation_id, None) is not None:
            self.released += 1
