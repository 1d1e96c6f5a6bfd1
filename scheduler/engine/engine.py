"""The engine: keeps what the store says in memory, and decides. Deterministic, and with no clock of its own."""

from collections.abc import Callable, Mapping
from datetime import datetime

from scheduler.cluster.cluster import Cluster
from scheduler.engine.backlog import place
from scheduler.engine.blocked import LIMITS, Blocked, Code
from scheduler.engine.cycle import Cycle
from scheduler.engine.explanation import Explanation
from scheduler.engine.limits import cost_micro
from scheduler.engine.settings import EngineSettings
from scheduler.engine.state import Refusal, State
from scheduler.engine.what_if import what_if
from scheduler.packing.scoring import Fragmentation, Scoring
from scheduler.plan import Plan
from scheduler.plan_protocol import PlanAnswer
from scheduler.ports import Changes, WaitReason
from scheduler.views import Held, Request


class Engine:
    """Implements `scheduler.plan.Decider`. `docs/explanation/scheduling.md` says how it decides."""

    def __init__(self, settings: EngineSettings | None = None, scoring: Callable[[], Scoring] = Fragmentation) -> None:
        """`scoring` makes a policy that has learned nothing yet."""
        self._settings = settings or EngineSettings()
        self._scoring = scoring
        self._state = self._empty()
        self._explanation: Explanation | None = None  # of the last decision, until it is given

    def update(self, changes: Changes, now: datetime) -> None:
        self._explanation = None
        if changes.complete:
            self._state = self._empty()
            self._state.shares.load(changes.usage)
        self._state.spent.clear()
        self._take_in_the_world(changes)
        for held in changes.held:
            self._take_in_held(held, now)
        for request in sorted(changes.queued, key=place):
            self._take_in_queued(request, now)
        for allocation_id in changes.gone:
            self._forget(allocation_id, now)

    def decide(self, now: datetime) -> Plan:
        cycle = Cycle(self._state, now)
        plan = cycle.run()
        self._explanation = cycle.explanation()
        return plan

    def reasons(self) -> Mapping[int, WaitReason]:
        explanation, self._explanation = self._explanation, None
        return {} if explanation is None else explanation.waits()

    def what_if(self, request: Request, now: datetime) -> PlanAnswer:
        """When and where this request would start; nothing is changed."""
        return what_if(self._state, request, now)

    def refused(self, reasons: Mapping[int, WaitReason]) -> None:
        self._explanation = None
        for allocation_id, reason in sorted(reasons.items()):
            request = self._take_back(allocation_id)
            if request is not None and reason.code in LIMITS:
                epoch, until, basis = self._state.epoch(request), reason.eta, reason.eta_basis
                verdict = Blocked(Code(reason.code), reason.detail, epoch, reason.figures, until, until, basis)
                self._state.refusals.setdefault(request.customer_id, []).append(Refusal(request, verdict))

    def _take_in_the_world(self, changes: Changes) -> None:
        state = self._state
        for view in changes.hosts:
            state.cluster.set_host(view)
        for host_id in changes.hosts_gone:
            state.cluster.drop_host(host_id)
        if changes.idle_groups is not None:
            state.cluster.set_idle_groups(changes.idle_groups)
        for customer in changes.customers:
            state.set_customer(customer)
        if changes.groups is not None:
            state.groups = tuple(changes.groups)
        if changes.reservations is not None:
            state.reservations = {reservation.reservation_id: reservation for reservation in changes.reservations}
        if changes.hosts or changes.hosts_gone or changes.groups is not None or changes.reservations is not None:
            state.holdings.freed += 1
            state.hosts_changed()
            totals = state.cluster.totals
            requests = (held.request for held in state.holdings.all())
            used = ((each.group, each.demand.gpu_milli, each.preemptible) for each in requests)
            state.capacity.define(state.groups, totals.gpu_milli, used)
            state.shares.total = (max(1, totals.gpu_milli), max(1, totals.cpu_milli), max(1, totals.memory_bytes))

    def _take_in_held(self, held: Held, now: datetime) -> None:
        """Placed by this engine, as a rule: then nothing is new but its state."""
        state, number = self._state, held.request.allocation_id
        if number not in state.holdings and state.backlog.remove(number) is None:
            state.cluster.observe(held.request.demand.shape)
        state.said.pop(number, None)
        state.stop_keeping(number)
        state.holdings.put(held, now)

    def _take_in_queued(self, request: Request, now: datetime) -> None:
        state, number = self._state, request.allocation_id
        if number not in state.holdings and number not in state.backlog:
            state.cluster.observe(request.demand.shape)
        self._give_back(number, now)  # its placement has failed
        if state.backlog.put(request, now):
            kept = state.kept.get(number)
            if kept is not None and kept.request != request:
                state.stop_keeping(number)

    def _forget(self, allocation_id: int, now: datetime) -> None:
        self._state.backlog.remove(allocation_id)
        self._state.said.pop(allocation_id, None)
        self._state.stop_keeping(allocation_id)
        self._give_back(allocation_id, now)

    def _give_back(self, allocation_id: int, now: datetime) -> None:
        held = self._state.holdings.get(allocation_id)
        if held is not None:
            self._state.holdings.drop(allocation_id, now)
            self._state.customer_changed(held.request.customer_id)

    def _take_back(self, allocation_id: int) -> Request | None:
        """Undo a placement; the request waits again. Nothing about its customer is new by that, to the store."""
        state = self._state
        held = state.holdings.get(allocation_id)
        if held is None:
            return None
        request = held.request
        state.holdings.drop(allocation_id, held.since)
        state.look_again(request.customer_id)
        state.spend(request.customer_id, -cost_micro(state, request, held.parts))
        state.backlog.put(request, held.since)
        return request

    def _empty(self) -> State:
        return State.empty(self._settings, Cluster(self._scoring(), topology=self._settings.topology))
