"""What is new for the scheduling loop: the keys that triggers have noted, read as they are now in a few queries.

All is of one moment (REPEATABLE READ), and what a transaction in flight has noted is not seen until it has committed:
then the next look has it. So nothing falls between two looks.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.orm import Session

from api.allocations.leadership import ask_epoch
from api.allocations.own_steps import OwnSteps
from api.allocations.tables import HOLDS, WAITS
from api.allocations.usage import load_usage
from api.allocations.views import GPU_COLUMNS, HOST_COLUMNS, REQUEST_COLUMNS, host_of, request_of
from api.billing.prices import Payer, PriceList, load_prices
from api.pipeline import pipelined
from api.quotas.limits import CustomerLimits, ask_limits
from api.settings import Settings
from scheduler.ports import Changes
from scheduler.states import AllocationState
from scheduler.views import CapacityGroup, CustomerView, Held, HostView, IdleGroup, Part, Request, Reservation, Usage

_CONSUME = text(
    "with consumed as (delete from scheduler_changes returning kind, key) select distinct kind, key from consumed"
)
_ALLOCATIONS = f"select {REQUEST_COLUMNS} from allocations a left join capacity_groups g on g.id = a.capacity_group_id"
_LIVE = text(f"{_ALLOCATIONS} where ({WAITS}) or ({HOLDS}) order by a.id")
_NOTED = text(f"{_ALLOCATIONS} where a.id = any(:ids) order by a.id")
_DEVICES = (
    "select s.allocation_id, d.host_id, d.id, sum(s.milli_to - s.milli_from)::int as milli from allocation_devices s"
    " join gpus d on d.id = s.gpu_id where upper_inf(s.period)"
)
_BY_INDEX = "group by s.allocation_id, d.id order by s.allocation_id, d.index"
_EVERY_DEVICE = text(f"{_DEVICES} {_BY_INDEX}")
_NOTED_DEVICES = text(f"{_DEVICES} and s.allocation_id = any(:ids) {_BY_INDEX}")
_HOSTS = f"select {HOST_COLUMNS} from hosts h where h.admin_state <> 'retired'"
_EVERY_HOST = text(f"{_HOSTS} order by h.id")
_NOTED_HOSTS = text(f"{_HOSTS} and h.id = any(:ids) order by h.id")
_GPUS = text(
    f"select {GPU_COLUMNS} from gpus d where d.host_id = any(:ids) and d.present and d.healthy"
    " order by d.host_id, d.pci_bus_id, d.index"
)
# Hosts remove no images: what a host has run of late, it still has.
_IMAGES = text(
    "select h.id, array_agg(distinct image_reference) from allocations, unnest(host_ids) as h (id)"
    " where active_at is not null and coalesce(released_at, :now) > cast(:now as timestamptz) - interval '30 days'"
    " group by h.id"
)
_MODELS = text("select distinct model from gpus where present order by model")
_CUSTOMERS = text(
    "select c.id, c.weight, c.currency, c.disabled_at is not null as disabled,"
    " coalesce(w.balance_micro + w.credit_limit_micro, 0) as available"
    " from customers c left join accounts w on w.customer_id = c.id and w.kind = 'wallet' and w.currency = c.currency"
    " where c.id = any(:ids) order by c.id"
)
_CAPACITY_GROUPS = text(
    "select name, cohort, nominal_milli, borrowing_limit_milli, lending_limit_milli, reclaim_within_cohort,"
    " preempt_lower_priority from capacity_groups order by name"
)
_RESERVATIONS = text(
    "select r.id, r.customer_id, r.starts_at, r.ends_at, r.cpu_milli, r.memory_bytes, d.host_id, d.id as gpu_id"
    " from reservations r join reservation_devices s on s.reservation_id = r.id join gpus d on d.id = s.gpu_id"
    " where r.state = 'booked' and r.ends_at > :now order by r.starts_at, r.id, s.id"
)
_GROUPS = (
    "select id, name, host_id, gpu_ids, cpu_milli, memory_bytes from placement_groups where idle_since is not null"
)
_EVERY_GROUP = text(_GROUPS)
_NOTED_GROUPS = text(f"{_GROUPS} and id = any(:ids)")


@dataclass(slots=True)
class Known:
    """What the loop was told so far, as far as it is needed to tell the difference."""

    prices: PriceList
    models: tuple[str, ...]  # of all devices
    customers: dict[int, CustomerView] = field(default_factory=dict)
    idle_groups: dict[int, IdleGroup] = field(default_factory=dict)  # by row id
    images: dict[int, frozenset[str]] = field(default_factory=dict)  # by host
    own: OwnSteps = field(default_factory=OwnSteps)


@dataclass(frozen=True, slots=True)
class Look:
    """Changes as they were read, and what is known when the transaction has committed."""

    changes: Changes
    prices: PriceList
    models: tuple[str, ...]
    idle_groups: Mapping[int, IdleGroup | None]  # None: it is so no more
    images: Mapping[int, frozenset[str]]

    def learn(self, known: Known | None) -> Known:
        known = known or Known(self.prices, self.models)
        known.prices, known.models = self.prices, self.models
        known.images.update(self.images)
        changes = self.changes
        known.own.told(changes.held, [*(request.allocation_id for request in changes.queued), *changes.gone])
        known.customers.update({view.customer_id: view for view in self.changes.customers})
        for key, group in self.idle_groups.items():
            if group is not None:
                known.idle_groups[key] = group
            else:
                known.idle_groups.pop(key, None)
        return known


def look(session: Session, known: Known | None, *, epoch: int, settings: Settings, now: datetime) -> Look:
    """What is new since `known`, or everything. The transaction is a fresh one of REPEATABLE READ.

    Raises:
        LostLeadershipError: the epoch is over.
    """
    noted: defaultdict[str, set[int]] = defaultdict(set)
    with pipelined(session) as pipeline:
        check = ask_epoch(pipeline, epoch)
        consumed = pipeline.ask(_CONSUME, {})
        check()
        for kind, key in consumed.all():
            noted[kind].add(key)
    complete = known is None
    due = known is not None and known.prices.next_change is not None and known.prices.next_change <= now
    repriced = known is None or due or "price_versions" in noted
    prices = load_prices(session, at=now) if known is None or repriced else known.prices
    fleet = known is None or "host" in noted
    models = tuple(session.scalars(_MODELS)) if known is None or fleet else known.models
    told = known or Known(PriceList([]), ())
    return _Reader(session, told, noted, complete, repriced, prices, models, settings, now).look()


@dataclass(slots=True)
class _Reader:
    session: Session
    known: Known
    noted: Mapping[str, set[int]]
    complete: bool
    repriced: bool
    prices: PriceList
    models: tuple[str, ...]
    settings: Settings
    now: datetime

    def look(self) -> Look:
        queued, held, gone = self._allocations()
        images = self._images(held)
        hosts, hosts_gone = self._hosts(images)
        idle = self._idle_groups()
        changes = Changes(
            complete=self.complete,
            hosts=hosts,
            hosts_gone=hosts_gone,
            queued=queued,
            held=held,
            gone=gone,
            customers=self._customers(queued, held),
            usage=self._usage(),
            groups=self._capacity_groups(),
            reservations=self._reservations(),
            idle_groups=self._idle_now(idle) if self.complete or idle else None,
        )
        return Look(changes, self.prices, self.models, idle, images)

    def _is_noted(self, *kinds: str) -> bool:
        return self.complete or any(kind in self.noted for kind in kinds)

    def _usage(self) -> list[Usage]:
        """Told once: from then on the loop counts by itself."""
        if not self.complete:
            return []
        return load_usage(self.session, half_life_s=self.settings.fair_share_half_life_s, now=self.now)

    def _allocations(self) -> tuple[list[Request], list[Held], list[int]]:
        if self.complete:
            return self._read(_LIVE, _EVERY_DEVICE, {})
        ids = self.known.own.to_read(self.noted.get("allocation", ()))
        queued, held, gone = self._read(_NOTED, _NOTED_DEVICES, {"ids": ids}) if ids else ([], [], [])
        own_held, own_gone = self.known.own.others(frozenset(ids))
        return queued, held + own_held, gone + own_gone

    def _read(
        self, query: TextClause, devices_query: TextClause, values: Mapping[str, Any]
    ) -> tuple[list[Request], list[Held], list[int]]:
        with pipelined(self.session) as pipeline:
            asked, devices = pipeline.ask(query, values), pipeline.ask(devices_query, values)
            rows, parts = asked.all(), _parts(devices.all())
        queued = [request_of(row) for row in rows if row.state == AllocationState.QUEUED]
        gone = [row.id for row in rows if row.state == AllocationState.RELEASED]
        holding = [row for row in rows if row.state not in (AllocationState.QUEUED, AllocationState.RELEASED)]
        return queued, [_held(row, parts.get(row.id, {})) for row in holding], gone

    def _images(self, held: Sequence[Held]) -> dict[int, frozenset[str]]:
        """All that hosts have which have got one by what runs there."""
        if self.complete:
            rows = self.session.execute(_IMAGES, {"now": self.now}).all()
            return {host_id: frozenset(images) for host_id, images in rows}
        found: dict[int, frozenset[str]] = {}
        for item in held:
            image = item.request.demand.image
            for part in item.parts if item.state is AllocationState.ACTIVE else ():
                images = found.get(part.host_id) or self.known.images.get(part.host_id, frozenset())
                if image not in images:
                    found[part.host_id] = images | {image}
        return found

    def _hosts(self, images: Mapping[int, frozenset[str]]) -> tuple[list[HostView], list[int]]:
        """Those noted, and those with new images; all where devices may have got their first price, or lost it."""
        noted = self.noted.get("host", set()) | images.keys()
        if self.repriced:
            rows = self.session.execute(_EVERY_HOST).all()
        elif noted:
            rows = self.session.execute(_NOTED_HOSTS, {"ids": sorted(noted)}).all()
        else:
            return [], []
        devices: defaultdict[int, list[Row[Any]]] = defaultdict(list)
        for gpu in self.session.execute(_GPUS, {"ids": [row.id for row in rows]}).all():
            if self.prices.is_priced(gpu.model):
                devices[gpu.host_id].append(gpu)
        gone = [] if self.complete else sorted(noted - {row.id for row in rows})
        views = [host_of(row, devices[row.id], images.get(row.id) or self.known.images.get(row.id)) for row in rows]
        return views, gone

    def _customers(self, queued: Sequence[Request], held: Sequence[Held]) -> list[CustomerView]:
        """Those noted, and those who wait (a wallet is noted only while something waits for it), where they differ from
        what was told of them."""
        wanted = {*self.noted.get("customer", ()), *(request.customer_id for request in queued)}
        if self.complete:
            wanted |= {item.request.customer_id for item in held}
        if self.repriced or self.models != self.known.models or "settings" in self.noted:
            wanted |= self.known.customers.keys()
        if not wanted:
            return []
        with pipelined(self.session) as pipeline:
            asked = ask_limits(pipeline, wanted)
            customers = pipeline.ask(_CUSTOMERS, {"ids": sorted(wanted)})
            limits, rows = asked.of(wanted), customers.all()
        views = [self._customer(row, limits[row.id]) for row in rows]
        return [view for view in views if self.known.customers.get(view.customer_id) != view]

    def _customer(self, row: Row[Any], limits: CustomerLimits) -> CustomerView:
        """With the prices of what it may rent."""
        payer = Payer(row.id, row.currency)
        groups = {
            group: self.prices.rates(self.models, replace(payer, capacity_group=group))
            for group in sorted(self.prices.groups_of(row.id))
        }
        return CustomerView(
            customer_id=row.id,
            weight=row.weight,
            limits=limits.own,
            available_micro=row.available,
            prices=self.prices.rates(self.models, payer),
            disabled=row.disabled,
            group_prices=groups,
            workspaces=limits.workspaces,
            users=limits.users,
        )

    def _capacity_groups(self) -> list[CapacityGroup] | None:
        if not self._is_noted("capacity_groups"):
            return None
        return [CapacityGroup(*row) for row in self.session.execute(_CAPACITY_GROUPS)]

    def _reservations(self) -> list[Reservation] | None:
        if not self._is_noted("reservations", "reservation_devices"):
            return None
        rows: dict[int, list[Row[Any]]] = {}
        for row in self.session.execute(_RESERVATIONS, {"now": self.now}):
            rows.setdefault(row.id, []).append(row)
        return [_reservation(devices) for devices in rows.values()]

    def _idle_groups(self) -> dict[int, IdleGroup | None]:
        """Groups that have become idle, or (None) are so no more."""
        if not self._is_noted("group"):
            return {}
        noted = self.noted.get("group", set())
        with pipelined(self.session) as pipeline:
            if self.complete:
                rows = pipeline.ask(_EVERY_GROUP, {}).all()
            else:
                rows = pipeline.ask(_NOTED_GROUPS, {"ids": sorted(noted)}).all()
        idle: dict[int, IdleGroup | None] = {
            row.id: IdleGroup(row.name, row.host_id, frozenset(row.gpu_ids), row.cpu_milli, row.memory_bytes)
            for row in rows
        }
        return idle if self.complete else {**dict.fromkeys(noted, None), **idle}

    def _idle_now(self, changed: Mapping[int, IdleGroup | None]) -> list[IdleGroup]:
        after = {**self.known.idle_groups, **changed}
        return [group for _, group in sorted(after.items()) if group is not None]


def _parts(rows: Iterable[Sequence[Any]]) -> dict[int, dict[int, list[tuple[int, int]]]]:
    """Devices with their shares, by allocation and host."""
    parts: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for allocation_id, host_id, gpu_id, milli in rows:
        parts.setdefault(allocation_id, {}).setdefault(host_id, []).append((gpu_id, milli))
    return parts


def _held(row: Row[Any], devices: Mapping[int, Sequence[tuple[int, int]]]) -> Held:
    return Held(
        request=request_of(row),
        state=AllocationState(row.state),
        generation=row.generation,
        parts=tuple(Part(host_id, tuple(devices.get(host_id, ()))) for host_id in row.host_ids),
        since=row.placed_at,
        checkpoint_at=row.checkpoint_at,
    )


def _reservation(rows: Sequence[Row[Any]]) -> Reservation:
    first = rows[0]
    devices: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        devices.setdefault(row.host_id, []).append((row.gpu_id, 1000))
    return Reservation(
        reservation_id=first.id,
        customer_id=first.customer_id,
        starts_at=first.starts_at,
        ends_at=first.ends_at,
        parts=tuple(Part(host_id, tuple(shares)) for host_id, shares in devices.items()),
        cpu_milli=first.cpu_milli,
        memory_bytes=first.memory_bytes,
    )
