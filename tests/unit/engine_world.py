"""A tiny world around the engine alone: it does at once what plans say, and tells the engine what has changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.plan import Plan
from scheduler.ports import Changes, WaitReason
from scheduler.states import AllocationState
from scheduler.views import CapacityGroup, CustomerView, Held, HostView, Part, Request, Reservation, Usage
from tests.unit.simulated_world import START, request

GRACE_S = 10
_CONDITIONS = ("apart", "within", "gpu_memory_bytes", "selectors", "image")
SETTINGS = EngineSettings(grace_s=GRACE_S, patience_s=0, refresh_s=10)


@dataclass
class EngineWorld:
    """`decide` tells the engine all that has happened since, and carries its plan out: what starts is active at once,
    and what is evicted is leaving until `gone` is called, or `pass_time` has passed its grace.
    """

    hosts: dict[int, HostView] = field(default_factory=dict)
    settings: EngineSettings = SETTINGS
    groups: Sequence[CapacityGroup] = ()
    reservations: Sequence[Reservation] = ()
    usage: Sequence[Usage] = ()
    now: datetime = START
    queued: dict[int, Request] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    customers: dict[int, CustomerView] = field(default_factory=dict)
    reasons: dict[int, WaitReason] = field(default_factory=dict)
    leaving: dict[int, datetime] = field(default_factory=dict)  # until when
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = Engine(self.settings)
        self._changes = Changes()
        self.tell_all()

    def tell_all(self) -> None:
        """The engine is to forget everything, and is told what there is."""
        self._changes = Changes(
            complete=True,
            hosts=list(self.hosts.values()),
            queued=list(self.queued.values()),
            held=list(self.held.values()),
            customers=list(self.customers.values()),
            usage=self.usage,
            groups=self.groups,
            reservations=self.reservations,
        )

    def submit(self, number: int, **options: Any) -> Request:  # Any: see `request`
        queued_at = options.pop("queued_at", self.now - timedelta(microseconds=1000 - number))
        made = self.queued[number] = a_request(number, queued_at=queued_at, **options)
        self._note(queued=[made])
        return made

    def cancel(self, number: int) -> None:
        del self.queued[number]
        self.reasons.pop(number, None)
        self._note(gone=[number])

    def run(
        self, number: int, *parts: tuple[int, int], on: Sequence[int] = (), since_s: float = 0, **options: Any
    ) -> Held:  # Any: as above
        """Something runs already, for so many seconds, on (host id, gpu id), or without GPUs `on` hosts; a customer of
        its own has it.
        """
        devices: dict[int, list[tuple[int, int]]] = {host_id: [] for host_id in on}
        for host_id, gpu_id in parts:
            devices.setdefault(host_id, []).append((gpu_id, options.get("milli", 1000)))
        since = self.now - timedelta(seconds=since_s)
        sizes = {"gpus": len(next(iter(devices.values()))), "nodes": len(devices)}
        options = {"customer_id": 100 + number, **sizes, **options}
        checkpoint_at = options.pop("checkpoint_at", None)
        held = Held(
            a_request(number, queued_at=since, **options),
            AllocationState.ACTIVE,
            1,
            tuple(Part(host_id, tuple(each)) for host_id, each in devices.items()),
            since,
            checkpoint_at,
        )
        self._hold(held)
        return held

    def gone(self, number: int) -> None:
        del self.held[number]
        self.leaving.pop(number, None)
        self._note(gone=[number])

    def set_host(self, view: HostView) -> None:
        self.hosts[view.host_id] = view
        self._note(hosts=[view])

    def drop_host(self, host_id: int) -> None:
        del self.hosts[host_id]
        self._note(hosts_gone=[host_id])

    def set_customer(self, customer: CustomerView) -> None:
        self.customers[customer.customer_id] = customer
        self._note(customers=[customer])

    def set_groups(self, *groups: CapacityGroup) -> None:
        self.groups = groups
        self._changes = replace(self._changes, groups=groups)

    def reserve(self, *reservations: Reservation) -> None:
        self.reservations = reservations
        self._changes = replace(self._changes, reservations=reservations)

    def leave(self, number: int, *, grace_s: float = GRACE_S) -> None:
        """It has been told to end."""
        self.leaving[number] = self.now + timedelta(seconds=grace_s)
        self._hold(replace(self.held[number], state=AllocationState.RELEASING))

    def pass_time(self, seconds: float) -> None:
        """What leaves is gone after its grace."""
        self.now += timedelta(seconds=seconds)
        for number in [number for number, until in self.leaving.items() if until <= self.now]:
            self.gone(number)

    def decide(self) -> Plan:
        changes, self._changes = self._changes, Changes()
        self.engine.update(changes, self.now)
        plan = self.engine.decide(self.now)
        plan = replace(plan, waits=self.engine.reasons())
        for placement in plan.placements:
            made = self.queued.pop(placement.allocation_id)
            self.reasons.pop(placement.allocation_id, None)
            self._hold(Held(made, AllocationState.ACTIVE, 1, placement.parts, self.now))
        for eviction in plan.evictions:
            self.leave(eviction.allocation_id)
        self.reasons.update(plan.waits)
        return plan

    def refuse(self, code: str, *numbers: int) -> None:
        """The store did not take what the last cycle has started."""
        for number in numbers:
            self.queued[number] = self.held.pop(number).request
        told = [held for held in self._changes.held if held.request.allocation_id not in numbers]
        self._changes = replace(self._changes, held=told)
        self.engine.refused({number: WaitReason(code, f"It was refused for {code}.", 1) for number in numbers})

    def starts(self) -> list[int]:
        """What the next cycle starts, in its order."""
        return [placement.allocation_id for placement in self.decide().placements]

    def evicts(self) -> list[int]:
        return sorted(eviction.allocation_id for eviction in self.decide().evictions)

    def codes(self) -> dict[int, str]:
        return {number: str(reason.code) for number, reason in self.reasons.items()}

    def _hold(self, held: Held) -> None:
        self.held[held.request.allocation_id] = held
        self._note(held=[held])

    def _note(self, **more: Sequence[Any]) -> None:  # Any: items of a field of Changes
        """An allocation is told with its last value only."""
        changes = self._changes
        numbers = {_number(item) for name in ("queued", "held", "gone") for item in more.get(name, ())}
        kept = {
            name: [item for item in getattr(changes, name) if _number(item) not in numbers]
            for name in ("queued", "held", "gone")
        }
        self._changes = replace(changes, **kept)
        merged = {name: [*getattr(self._changes, name), *items] for name, items in more.items()}
        self._changes = replace(self._changes, **merged)


def _number(item: Request | Held | int) -> int:
    if isinstance(item, int):
        return item
    return item.allocation_id if isinstance(item, Request) else item.request.allocation_id


def a_request(number: int, **options: Any) -> Request:  # Any: see `request`; and fields of Demand that it lacks
    conditions = {name: options.pop(name) for name in _CONDITIONS if name in options}
    made = request(number, **options)
    return replace(made, demand=replace(made.demand, **conditions))


def world(*views: HostView, **options: Any) -> EngineWorld:  # Any: fields of EngineWorld
    return EngineWorld({view.host_id: view for view in views}, **options)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)
