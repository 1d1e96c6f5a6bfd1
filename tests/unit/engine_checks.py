"""What must hold in the engine's world after every cycle, worked out by brute force from what is held and queued."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby

from scheduler import gpu_model
from scheduler.plan import Plan
from scheduler.ports import WaitReason
from scheduler.quota import NOTHING, Lack, lack, lease_lack, model_lack
from scheduler.states import AllocationState
from scheduler.views import CapacityGroup, CustomerView, DeviceView, Held, HostView, Part, Request, Reservation


@dataclass
class Picture:
    """What there is at a time; `held` as it is when a plan is about to be carried out, step by step."""

    now: datetime
    grace_s: float
    hosts: Mapping[int, HostView]
    held: dict[int, Held]
    customers: Mapping[int, CustomerView]
    groups: Sequence[CapacityGroup]
    reservations: Sequence[Reservation]

    # Places

    def fits(self, request: Request, host: HostView, devices: Sequence[DeviceView]) -> bool:
        """Whether a part of it fits on exactly these devices now, whatever is kept for others."""
        shape, there = request.demand.shape, list(self.on(host.host_id))
        cpu_milli = host.cpu_milli - sum(held.request.demand.shape.cpu_milli for held, _ in there)
        memory_bytes = host.memory_bytes - sum(held.request.demand.shape.memory_bytes for held, _ in there)
        apart = request.demand.apart is not None and any(
            (held.request.customer_id, held.request.demand.apart) == (request.customer_id, request.demand.apart)
            for held, _ in there
        )
        return (
            host.schedulable
            and not apart
            and cpu_milli >= shape.cpu_milli
            and memory_bytes >= shape.memory_bytes
            and len(devices) == shape.gpus
            and all(self.usable(request, device) for device in devices)
        )

    def usable(self, request: Request, device: DeviceView) -> bool:
        """Whether its share of the device is free, and everything else on it is its customer's."""
        shares = [
            (held.request.customer_id, milli)
            for held in self.held.values()
            for part in held.parts
            for gpu_id, milli in part.devices
            if gpu_id == device.gpu_id
        ]
        others = any(customer_id != request.customer_id for customer_id, _ in shares)
        return not others and sum(milli for _, milli in shares) + request.demand.shape.milli <= 1000

    def on(self, host_id: int) -> Iterator[tuple[Held, Part]]:
        for held in self.held.values():
            for part in held.parts:
                if part.host_id == host_id:
                    yield held, part

    def pools(self, request: Request) -> Iterator[tuple[HostView, list[DeviceView]]]:
        """Hosts, with the devices of one model that meet the request's conditions, if they are enough for a part."""
        demand = request.demand
        for host in self.hosts.values():
            if demand.bound_host_id not in (None, host.host_id) or host.cpu_milli < demand.shape.cpu_milli:
                continue
            if not demand.shape.gpus:
                yield host, []
                continue
            for model, devices in groupby(sorted(host.devices, key=lambda device: device.model), lambda d: d.model):
                found = list(devices)
                wanted = not demand.models or any(gpu_model.matches(each, model) for each in demand.models)
                if wanted and len(found) >= demand.shape.gpus:
                    yield host, found

    def has_place(self, request: Request) -> bool:
        """Whether it fits somewhere now, whatever is kept for others."""
        by_model: defaultdict[str, set[int]] = defaultdict(set)
        for host, devices in self.pools(request):
            free = [device for device in devices if self.usable(request, device)][: request.demand.shape.gpus]
            if self.fits(request, host, free) and not (devices and self.lack(request, devices[0].model)):
                by_model[devices[0].model if devices else ""].add(host.host_id)
        return any(len(hosts) >= request.demand.nodes for hosts in by_model.values())

    def could_start_inside(self, request: Request) -> bool:
        """Whether what it reserved has begun, and is free for it."""
        for reservation in self.reservations:
            if reservation.reservation_id != request.reservation_id:
                continue
            hosts = {part.host_id: {gpu_id for gpu_id, _ in part.devices} for part in reservation.parts}
            for host, devices in self.pools(request):
                reserved = [device for device in devices if device.gpu_id in hosts.get(host.host_id, ())]
                lacks = devices and self.lack(request, devices[0].model) is not None
                if self.fits(request, host, reserved) and not lacks:
                    return reservation.starts_at <= self.now < reservation.ends_at
        return False

    # Quotas and groups

    def lack(self, request: Request, model: str | None = None) -> Lack | None:
        """The limit on its path that stands against it, or against it with devices of this model."""
        customer = self.customers.get(request.customer_id) or CustomerView(request.customer_id)
        models = {device.gpu_id: device.model for host in self.hosts.values() for device in host.devices}
        for scope, limits in customer.limits_on(request):
            there = [held for held in self.held.values() if scope in held.request.path]
            gpus = Counter[str]()
            for held in there:
                gpus.update(models.get(gpu_id, "") for part in held.parts for gpu_id, _ in part.devices)
            total = sum((held.request.resources for held in there), NOTHING)
            found = lack(limits, held=total, asked=request.resources) or lease_lack(limits, request.limit_s)
            if found is None and model is not None:
                found = model_lack(limits, model, held=gpus, gpus=request.resources.gpus)
            if found is not None:
                return found
        return None

    def is_limited(self, request: Request) -> bool:
        """Whether quotas stand against it, with whatever devices."""
        if self.lack(request) is not None:
            return True
        models = {devices[0].model for host, devices in self.pools(request) if devices and host.schedulable}
        return self.has_model_limits(request) and all(self.lack(request, model) is not None for model in models)

    def has_model_limits(self, request: Request) -> bool:
        """Then what it is told is of the models alone that it may have beside what is kept for others."""
        customer = self.customers.get(request.customer_id) or CustomerView(request.customer_id)
        return any(limits.gpu_models for _, limits in customer.limits_on(request))

    def group_of(self, request: Request) -> str:
        return request.group if request.group in {group.name for group in self.groups} and request.group else ""

    def used(self, name: str) -> int:
        return sum(h.request.demand.gpu_milli for h in self.held.values() if self.group_of(h.request) == name)

    def _used_firmly(self, name: str) -> int:
        """Preemptible ones take nothing of what is guaranteed to nobody."""
        taken = [h.request for h in self.held.values() if name or not h.request.preemptible]
        return sum(request.demand.gpu_milli for request in taken if self.group_of(request) == name)

    def nominal(self, name: str) -> int:
        total = sum(1000 * len(host.devices) for host in self.hosts.values() if host.schedulable)
        rest = max(0, total - sum(group.nominal for group in self.groups))
        return next((group.nominal for group in self.groups if group.name == name), rest)

    def borrows(self, name: str, starting: Sequence[Request]) -> bool:
        more = sum(request.demand.gpu_milli for request in starting if self.group_of(request) == name)
        return bool(self.groups) and self.used(name) + more > self.nominal(name)

    def within_group(self, request: Request) -> bool:
        """Whether its group may use so much more."""
        name, milli = self.group_of(request), request.demand.gpu_milli
        if not self.groups or not milli:
            return True
        group = next((group for group in self.groups if group.name == name), None)
        if group is None or not group.cohort:
            return (group is None and request.preemptible) or self._used_firmly(name) + milli <= self.nominal(name)
        limit = group.borrowing_limit
        if limit is not None and self.used(name) + milli > group.nominal + limit:
            return False
        shared = 0  # more than is lent; after the groups have changed, others may have too much
        for other in self.groups:
            if other.cohort == group.cohort:
                lent = other.nominal if other.lending_limit is None else min(other.lending_limit, other.nominal)
                own = other.nominal - lent
                shared -= lent
                shared += self.used(name) + milli - own if other is group else max(0, self.used(other.name) - own)
        return shared <= 0

    # What a plan does

    def carry_out(self, plan: Plan, queued: Mapping[int, Request]) -> None:
        """Check every step, and take it."""
        starting = [queued[placement.allocation_id] for placement in plan.placements]
        for eviction in plan.evictions:
            victim = self.held[eviction.allocation_id]
            favoured = None if eviction.in_favour_of is None else queued[eviction.in_favour_of]
            self._check_eviction(victim, favoured, starting)
            self.held[eviction.allocation_id] = replace(victim, state=AllocationState.RELEASING)
        for placement in plan.placements:
            request = queued[placement.allocation_id]
            self._check_placement(request, placement.parts)
            self.held[request.allocation_id] = Held(request, AllocationState.ACTIVE, 1, placement.parts, self.now)

    def _check_placement(self, request: Request, parts: Sequence[Part]) -> None:
        demand, models = request.demand, set[str]()
        assert len({part.host_id for part in parts}) == len(parts) == demand.nodes, "a gang on as many hosts"
        pools = {host.host_id: {device.gpu_id: device for device in host.devices} for host, _ in self.pools(request)}
        for part in parts:
            devices = [pools[part.host_id][gpu_id] for gpu_id, _ in part.devices]
            models.update(device.model for device in devices)
            assert all(milli == demand.shape.milli for _, milli in part.devices)
            assert self.fits(request, self.hosts[part.host_id], devices), (request, part)
            self._check_reserved(request, part)
        assert len(models) == min(1, demand.shape.gpus), "of one model"
        assert any(not demand.models or gpu_model.matches(each, *models) for each in demand.models or [""])
        assert self.lack(request, *models) is None, "a quota"
        assert request.reservation_id is not None or self.within_group(request), (request, "a group's quota")

    def _check_reserved(self, request: Request, part: Part) -> None:
        devices = {gpu_id for gpu_id, _ in part.devices}
        own = next((each for each in self.reservations if each.reservation_id == request.reservation_id), None)
        if own is not None:
            assert devices <= _devices(own), "in its reservation and nowhere else"
            assert own.starts_at <= self.now < own.ends_at, "in its time"
        limit = timedelta(seconds=request.limit_s + self.grace_s) if request.limit_s is not None else timedelta.max
        for other in self.reservations:
            if other is not own and devices & _devices(other) and self.now < other.ends_at:
                ends_before = own.ends_at <= other.starts_at if own else other.starts_at - self.now >= limit
                assert ends_before, "on devices that are reserved"

    def _check_eviction(self, victim: Held, favoured: Request | None, starting: Sequence[Request]) -> None:
        """`starting` is what the same plan starts, before or after that."""
        assert victim.state is AllocationState.ACTIVE, "nothing is evicted twice"
        assert victim.request.reservation_id is None, "what has begun in a reservation is not displaced"
        if favoured is None:
            assert victim.request.preemptible
            grace = timedelta(seconds=self.grace_s)
            assert any(
                self._is_in_its_way(victim, reservation)
                and reservation.starts_at - grace <= self.now < reservation.ends_at
                for reservation in self.reservations
            ), "not without a reservation that begins"
            return
        assert self.now >= victim.since + timedelta(seconds=victim.request.min_runtime_s), "its minimum runtime"
        hosts = [self.hosts.get(part.host_id) for part in victim.parts]
        assert all(host is not None and host.reachable for host in hosts), "it would not leave"
        mine, theirs = self.group_of(favoured), self.group_of(victim.request)
        lower = _rank(victim.request) < _rank(favoured)
        same = mine == theirs and (victim.request.preemptible or mine != "")
        borrowed = self.borrows(theirs, starting) and (theirs != "" or victim.request.preemptible)
        open_to_it = theirs == "" and victim.request.preemptible and lower
        assert (lower and same) or borrowed or open_to_it, (favoured, victim)
        assert lower or favoured.demand.shape.gpus, "what asks for no GPUs reclaims none"

    def _is_in_its_way(self, victim: Held, reservation: Reservation) -> bool:
        """On its devices; or on its host, for whom only CPU and memory matter."""
        hosts = {part.host_id for part in victim.parts} & {part.host_id for part in reservation.parts}
        return bool(_devices(victim) & _devices(reservation) or (hosts and not victim.request.demand.shape.gpus))


def _devices(of: Held | Reservation) -> set[int]:
    return {gpu_id for part in of.parts for gpu_id, _ in part.devices}


def _rank(request: Request) -> tuple[int, bool]:
    return request.priority, not request.preemptible


def check_reason(picture: Picture, request: Request, reason: WaitReason) -> None:
    """Whether the reason is true now."""
    demand = request.demand
    schedulable = {host.host_id for host, _ in picture.pools(request) if host.schedulable}
    match str(reason.code):
        case "quota":
            assert "is kept for an earlier request" in reason.detail or picture.is_limited(request)
        case "capacity_group":
            assert "is kept for who came before" in reason.detail or not picture.within_group(request)
        case "host_not_available" | "bound_host_unavailable":
            narrowed = picture.has_model_limits(request)
            assert narrowed or "it is tried again" in reason.detail or len(schedulable) < demand.nodes
        case "no_capacity" | "bound_host_busy":
            assert picture.has_model_limits(request) or not picture.has_place(request), (request, reason)
        case "preempting":
            leaving = [held for held in picture.held.values() if held.state is AllocationState.RELEASING]
            assert leaving or "waits a moment" in reason.detail
        case "reservation":
            assert request.reservation_id is not None and not picture.could_start_inside(request), (request, reason)
        case "behind_others" | "reserved":
            assert request.reservation_id is None, (request, reason)
        case "not_reached":
            pass  # whether a cycle was long enough, only the engine knows
        case other:
            raise AssertionError(f"{other} can't be the reason here: {reason.detail}")


def check_figures(picture: Picture, request: Request, reason: WaitReason) -> None:
    """Whether what it says about devices is so now, to the device."""
    if str(reason.code) not in ("no_capacity", "behind_others", "reserved", "bound_host_busy"):
        return
    if picture.has_model_limits(request):
        return
    assert (str(reason.code) in ("behind_others", "reserved")) == picture.has_place(request), (request, reason)
    pools = [(host, devices) for host, devices in picture.pools(request) if host.schedulable]
    if not request.demand.shape.gpus:
        _check_room(picture, request, reason, [host for host, _ in pools])
        return
    free = sum(picture.usable(request, device) for _, devices in pools for device in devices)
    figures = {"free": free, "total": sum(len(devices) for _, devices in pools)}
    wanted = request.demand.nodes * request.demand.shape.gpus
    told = {name: figure for name, figure in (reason.figures or {}).items() if name != "latest_at"}
    assert told == figures | {"wanted": wanted}, (request, reason)
    assert f"{free} of {figures['total']} " in reason.detail


def _check_room(picture: Picture, request: Request, reason: WaitReason, hosts: Sequence[HostView]) -> None:
    """Of one without GPUs: the most that is free on any of its hosts."""
    shape, free = request.demand.shape, Counter[str]()
    for host in hosts:
        there = [held.request.demand.shape for held, _ in picture.on(host.host_id)]
        free["free_cpu_milli"] = max(free["free_cpu_milli"], host.cpu_milli - sum(each.cpu_milli for each in there))
        memory_bytes = host.memory_bytes - sum(each.memory_bytes for each in there)
        free["free_memory_bytes"] = max(free["free_memory_bytes"], memory_bytes)
    told = {name: figure for name, figure in (reason.figures or {}).items() if name != "latest_at"}
    wanted = {"wanted_cpu_milli": shape.cpu_milli, "wanted_memory_bytes": shape.memory_bytes}
    assert told == {**free, **wanted}, (request, reason)
    assert f"{free['free_cpu_milli']} milli-cores" in reason.detail
