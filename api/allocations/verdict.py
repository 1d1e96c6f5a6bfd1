"""Whether a placement may happen, judged by what was read under the locks: a pure pass over a batch, in its order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from api.allocations.devices import Share
from api.allocations.groups import Taken, Wanted
from api.allocations.leases import Terms, admitted, lease_kind
from api.allocations.standing import CustomerStanding, HostStanding, Locked, Standing
from api.billing.holds import HoldOrder
from api.billing.prices import Payer, Quote
from api.clock import to_ms
from api.quotas.limits import Path
from api.quotas.usage import next_month
from scheduler.demand import Demand
from scheduler.gpu_model import matches
from scheduler.host_protocol import DeviceShare
from scheduler.ports import Admitted, Placement, WaitReason
from scheduler.selectors import write
from scheduler.states import AllocationState
from scheduler.views import Part, Request

NO_CAPACITY = "no_capacity"


@dataclass(frozen=True, slots=True)
class Grant:
    """A placement that was found good, with what is to be written of it."""

    locked: Locked
    host_ids: tuple[int, ...]
    host_name: str  # the first one's
    shares: Sequence[Share]
    run_until: datetime
    hold: HoldOrder | None
    group: Taken
    admitted: Admitted

    @property
    def generation(self) -> int:
        return self.locked.generation + 1


class _RefusedError(Exception):
    def __init__(self, code: str, detail: str, *, until: datetime | None = None) -> None:
        """`until`: it may be otherwise then, and not before."""
        super().__init__(detail)
        self.reason = WaitReason(code, detail, 1, eta=until, eta_basis="unknown" if until is None else "limits")


def judge(standing: Standing, placement: Placement) -> Grant | WaitReason:
    """Take a placement into `standing`, or say what stands against it, with `standing` as it was."""
    locked = standing.requests[placement.allocation_id]
    if locked.state is not AllocationState.QUEUED:
        return WaitReason(NO_CAPACITY, f"It is {locked.state} by now.", 1)
    try:
        model = _check_parts(standing, locked.request, placement)
        return _grant(standing, locked, placement, model)
    except _RefusedError as refused:
        return refused.reason


def _grant(standing: Standing, locked: Locked, placement: Placement, model: str | None) -> Grant:
    request = locked.request
    customer = standing.customers[request.customer_id]
    price = None if model is None else _price(standing, customer, request, model)
    _check_quotas(standing, customer, request, model)
    shares = _take_shares(standing, request, placement)
    run_until = _run_until(standing, request, shares)
    hold = None if price is None else _order(standing, locked, price, run_until)
    try:
        _pay(standing, customer, request, hold)
    except _RefusedError:
        standing.shares.give_back(shares)
        raise
    host_ids = tuple(part.host_id for part in placement.parts)
    room = _use_capacity(standing, request, host_ids)
    cost_micro = 0 if hold is None else hold.amount_micro
    standing.use.add(_path(request), request.resources, model=model, cost_micro=cost_micro)
    group = standing.groups.take(_wanted(locked, placement), room)
    standing.requests[request.allocation_id] = replace(locked, state=AllocationState.PLACING)
    bundles = [(standing.hosts[part.host_id].uid, _devices(standing, part)) for part in placement.parts]
    return Grant(
        locked=locked,
        host_ids=host_ids,
        host_name=standing.hosts[host_ids[0]].name,
        shares=shares,
        run_until=run_until,
        hold=hold,
        group=group,
        admitted=admitted(_terms(standing, locked, run_until), group.name, bundles),
    )


def _price(standing: Standing, customer: CustomerStanding, request: Request, model: str) -> Quote:
    price = standing.prices.price_of(model, Payer(request.customer_id, customer.currency, request.group))
    if price is None:
        raise _RefusedError("no_price", f"No price in {customer.currency} is set for {model}.")
    return price.quote(preemptible=request.preemptible, reserved=request.reservation_id is not None)


def _terms(standing: Standing, locked: Locked, run_until: datetime) -> Terms:
    request = locked.request
    return Terms(
        allocation_id=request.allocation_id,
        allocation_uid=request.allocation_uid,
        generation=locked.generation + 1,
        customer_uid=standing.customers[request.customer_id].uid,
        cpu_milli=request.demand.shape.cpu_milli,
        memory_bytes=request.demand.shape.memory_bytes,
        disk_bytes=locked.disk_bytes,
        pids=standing.settings.container_pids,
        run_until=run_until,
        image=request.demand.image,
        container_name=locked.container_name,
        home_volume=locked.home_volume,
        kind=lease_kind(locked.kind),
        shm_bytes=locked.shm_bytes,
    )


def _devices(standing: Standing, part: Part) -> tuple[DeviceShare, ...]:
    """In the order of their index."""
    shares = sorted((standing.gpus[gpu_id].index, standing.gpus[gpu_id].uuid, milli) for gpu_id, milli in part.devices)
    return tuple(DeviceShare(uuid, milli) for _, uuid, milli in shares)


def _check_parts(standing: Standing, request: Request, placement: Placement) -> str | None:
    """The model of the devices, if it takes any; refuses what has changed since the decision, or is wrong with it."""
    demand = request.demand
    host_ids = [part.host_id for part in placement.parts]
    if len(host_ids) != demand.nodes or len(set(host_ids)) != demand.nodes:
        raise _obstacle("the hosts chosen are not as many as were asked for")
    if demand.bound_host_id not in (None, *host_ids):
        raise _obstacle("its volume lives on another host")
    for host_id in host_ids:
        _check_host(standing, request, host_id)
    _check_level(standing, demand, host_ids)
    gpus = [(part.host_id, standing.gpus.get(gpu_id)) for part in placement.parts for gpu_id, _ in part.devices]
    if any(gpu is None or not gpu.usable or gpu.host_id != host_id for host_id, gpu in gpus):
        raise _obstacle("a device has failed")
    for part in placement.parts:
        _check_devices(standing, request, part.devices)
    if not demand.shape.gpus:
        return None
    models = {gpu.model for _, gpu in gpus if gpu is not None}
    if len(models) != 1:
        raise _obstacle("the devices chosen are not all of one model")
    (model,) = models
    if demand.models and not any(matches(asked, model) for asked in demand.models):
        raise _obstacle("the devices chosen are of another model")
    return model


def _check_host(standing: Standing, request: Request, host_id: int) -> None:
    host = standing.hosts.get(host_id)
    if host is None:
        raise _obstacle("a host has left")
    if host.why_not:
        raise _obstacle(f"host {host.name} takes no new work: {host.why_not}")
    _check_kind(request.demand, host)
    if (host_id, request.customer_id, request.demand.apart) in standing.apart:
        raise _obstacle(f"host {host.name} has another one of {request.demand.apart}")
    cpu_milli, memory_bytes = standing.used.get(host_id, (0, 0))
    shape = request.demand.shape
    if cpu_milli + shape.cpu_milli > host.cpu_milli or memory_bytes + shape.memory_bytes > host.memory_bytes:
        raise _obstacle(f"host {host.name} has not enough CPU or memory left")


def _check_kind(demand: Demand, host: HostStanding) -> None:
    """What operators and new drivers change of a host while requests wait."""
    for selector in demand.selectors:
        if not selector.matches(host.labels):
            raise _obstacle(f"host {host.name} does not fulfil {write(selector)!r} any more")
    if host.driver < demand.driver or host.cuda < demand.cuda:
        raise _obstacle(f"the driver of host {host.name} is older than was asked for")


def _check_level(standing: Standing, demand: Demand, host_ids: Sequence[int]) -> None:
    if demand.within is None:
        return
    values = {standing.hosts[host_id].labels.get(demand.within) for host_id in host_ids}
    if len(values) != 1 or None in values:
        raise _obstacle(f"the hosts chosen do not share a {demand.within} any more")


def _check_devices(standing: Standing, request: Request, devices: Sequence[tuple[int, int]]) -> None:
    """The number and the share that were asked for, on devices that are not set aside for somebody else."""
    shape = request.demand.shape
    if len({gpu_id for gpu_id, _ in devices}) != shape.gpus or any(milli != shape.milli for _, milli in devices):
        raise _obstacle("the devices chosen are not what was asked for")
    if any(standing.gpus[gpu_id].memory_bytes < request.demand.gpu_memory_bytes for gpu_id, _ in devices):
        raise _obstacle("the devices chosen have too little memory")
    reservations = {standing.reserved.get(gpu_id, (None,))[0] for gpu_id, _ in devices}
    if devices and reservations != {request.reservation_id}:
        raise _obstacle("the devices chosen are not those of its reservation, or are another one's")


def _take_shares(standing: Standing, request: Request, placement: Placement) -> list[Share]:
    taken: list[Share] = []
    for gpu_id, milli in (device for part in placement.parts for device in part.devices):
        shares = standing.shares.take(gpu_id, milli, customer_id=request.customer_id)
        if shares is None:
            standing.shares.give_back(taken)
            raise _obstacle("somebody else was faster")
        taken += shares
    return taken


def _check_quotas(standing: Standing, customer: CustomerStanding, request: Request, model: str | None) -> None:
    if customer.disabled:
        raise _RefusedError("quota", "It would start now, but the customer is disabled.")
    asked, use = request.resources, standing.use
    for scope, limits in customer.limits.on(_path(request)):
        found = use.lack(scope, limits, asked, request.limit_s)
        if found is None and model is not None:
            found = use.model_lack(scope, limits, asked.gpus, model)
        if found is not None:
            raise _RefusedError("quota", f"It would start now, but {found.sentence}.")


def _pay(standing: Standing, customer: CustomerStanding, request: Request, hold: HoldOrder | None) -> None:
    """Take what is set aside for it from the wallet, within what may be spent this month."""
    if hold is None:
        return
    for scope, limits in customer.limits.on(_path(request)):
        if found := standing.use.month_lack(scope, limits, hold.amount_micro):
            detail = f"It would start now, but {found.sentence}."
            raise _RefusedError("quota", detail, until=next_month(standing.now))
    if not standing.wallets.cover(hold):
        raise _unpaid(request, hold.price)


def _path(request: Request) -> Path:
    return Path(request.customer_id, request.workspace_id, request.user_id)


def _run_until(standing: Standing, request: Request, shares: Sequence[Share]) -> datetime:
    """Its first promise, which no reservation's end cuts short."""
    until = standing.now + timedelta(seconds=request.hold_s)
    return min([until, *(standing.reserved[share.gpu_id][1] for share in shares if share.gpu_id in standing.reserved)])


def _order(standing: Standing, locked: Locked, price: Quote, until: datetime) -> HoldOrder:
    request = locked.request
    return HoldOrder(
        allocation_id=request.allocation_id,
        generation=locked.generation + 1,
        customer_id=request.customer_id,
        price=price,
        devices_milli=request.demand.gpu_milli,
        devices=request.demand.nodes * request.demand.shape.gpus,
        starts_ms=to_ms(standing.now),
        covers_until_ms=to_ms(until),
    )


def _use_capacity(standing: Standing, request: Request, host_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Count its CPU, memory and word, and answer what is left on each host."""
    shape, room = request.demand.shape, {}
    for host_id in host_ids:
        cpu_milli, memory_bytes = standing.used.get(host_id, (0, 0))
        used = standing.used[host_id] = cpu_milli + shape.cpu_milli, memory_bytes + shape.memory_bytes
        if request.demand.apart is not None:
            standing.apart.add((host_id, request.customer_id, request.demand.apart))
        host = standing.hosts[host_id]
        room[host_id] = host.cpu_milli - used[0], host.memory_bytes - used[1]
    return room


def _wanted(locked: Locked, placement: Placement) -> Wanted:
    request, shape = locked.request, locked.request.demand.shape
    return Wanted(
        allocation_id=request.allocation_id,
        name=f"rg-{request.allocation_uid}-{locked.generation + 1}",
        host_ids=tuple(part.host_id for part in placement.parts),
        gpu_ids=tuple(sorted(gpu_id for part in placement.parts for gpu_id, _ in part.devices)),
        whole=shape.milli == 1000,
        cpu_milli=shape.cpu_milli,
        memory_bytes=shape.memory_bytes,
    )


def _obstacle(what: str) -> _RefusedError:
    return _RefusedError(NO_CAPACITY, f"It was about to start, but {what}; it is tried again at once.")


def _unpaid(request: Request, price: Quote) -> _RefusedError:
    minutes = -(-request.hold_s // 60)
    detail = (
        f"It would start now, but the balance does not cover its first {minutes} minutes "
        f"at {price.price_micro_per_gpu_hour / 1_000_000:.2f} {price.currency} per GPU hour."
    )
    return _RefusedError("balance", detail)
