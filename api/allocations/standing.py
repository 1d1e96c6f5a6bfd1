"""What a batch of placements is judged by, read under the locks: requests, hosts, devices, limits, prices, money."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.allocations import devices
from api.allocations.devices import Shares
from api.allocations.feasibility import read_version
from api.allocations.groups import Groups, ask_idle
from api.allocations.tables import HOLDS
from api.allocations.views import REQUEST_COLUMNS, request_of, why_not_schedulable
from api.billing.holds import Wallets, lock_wallets
from api.billing.prices import PriceList, ask_prices
from api.pipeline import Pipeline, pipelined
from api.quotas.limits import AskedLimits, CustomerLimits, ask_limits_of_owners
from api.quotas.usage import Use, load_use
from api.settings import Settings
from scheduler.demand import Version
from scheduler.ports import Placement
from scheduler.states import AllocationState
from scheduler.views import Request

_CUSTOMERS = text(
    "select id, uid, currency, disabled_at is not null as disabled from customers where id in"
    " (select customer_id from allocations where id = any(:ids)) order by id for update"
)
_REQUESTS = text(
    f"select {REQUEST_COLUMNS}, a.disk_bytes, a.container_name, a.home_volume, a.shm_bytes"
    " from allocations a left join capacity_groups g on g.id = a.capacity_group_id"
    " where a.id = any(:ids) order by a.id for update of a"
)
_HOSTS = text(
    "select id, uid, name, admin_state, device_status, cpu_milli, memory_bytes, labels,"
    " facts ->> 'driver_version' as driver, facts ->> 'cuda_version' as cuda from hosts where id = any(:ids)"
    " order by id for share"
)
_GPUS = text(
    "select id, uuid, index, host_id, model, memory_bytes, present and healthy as usable from gpus where id = any(:ids)"
)
_USED = text(
    "select host_id, sum(cpu_milli)::bigint as cpu_milli, sum(memory_bytes)::bigint as memory_bytes from ("
    f" select host_id, cpu_milli, memory_bytes from allocations where {HOLDS} and nodes = 1 and host_id = any(:ids)"
    " union all"
    " select host, cpu_milli, memory_bytes from allocations, unnest(host_ids) as host"
    f" where {HOLDS} and nodes > 1 and host = any(:ids)"
    ") used group by host_id"
)
_APART = text(
    f"select host_id, customer_id, apart from allocations where {HOLDS} and nodes = 1 and host_id = any(:ids)"
    " and apart = any(:words) union"
    f" select host, customer_id, apart from allocations, unnest(host_ids) as host where {HOLDS} and nodes > 1"
    " and host = any(:ids) and apart = any(:words)"
)
_RESERVED = text(
    "select gpu_id, reservation_id, upper(period) from reservation_devices"
    " where gpu_id = any(:ids) and period @> cast(:now as timestamptz)"
)


@dataclass(frozen=True, slots=True)
class Locked:
    """An allocation as it was locked."""

    request: Request
    state: AllocationState
    generation: int
    checkpoint_at: datetime | None
    disk_bytes: int
    container_name: str
    home_volume: str | None
    kind: str  # what asked for it
    shm_bytes: int | None


@dataclass(frozen=True, slots=True)
class HostStanding:
    uid: str
    name: str
    why_not: str | None
    cpu_milli: int
    memory_bytes: int
    labels: Mapping[str, str]
    driver: Version
    cuda: Version


@dataclass(frozen=True, slots=True)
class GpuStanding:
    uuid: str
    index: int
    host_id: int
    model: str
    memory_bytes: int
    usable: bool


@dataclass(frozen=True, slots=True)
class CustomerStanding:
    uid: str
    currency: str
    disabled: bool
    limits: CustomerLimits


@dataclass(slots=True)
class Standing:
    """`used` (CPU, memory by host), `use` (of quotas), `apart`, `shares`, `groups` and `wallets` change with each
    placement that is found good."""

    now: datetime
    settings: Settings
    locked_at: datetime  # the server's time under the placement lock
    requests: dict[int, Locked]
    customers: Mapping[int, CustomerStanding]
    hosts: Mapping[int, HostStanding]
    gpus: Mapping[int, GpuStanding]
    reserved: Mapping[int, tuple[int, datetime]]  # by GPU: the reservation that has it now, and until when
    prices: PriceList
    shares: Shares
    groups: Groups
    used: dict[int, tuple[int, int]]
    wallets: Wallets = field(default_factory=lambda: Wallets({}, {}))
    use: Use = field(default_factory=Use)
    apart: set[tuple[int, int, str]] = field(default_factory=set)
    """Host, customer, and the word of something that it has there."""


def load_standing(session: Session, placements: Sequence[Placement], *, settings: Settings, now: datetime) -> Standing:
    """Take the locks of placements, customers, allocations, hosts and wallets in their order, and read the rest."""
    ids = {"ids": [placement.allocation_id for placement in placements]}
    parts = [part for placement in placements for part in placement.parts]
    host_ids = sorted({part.host_id for part in parts})
    gpu_ids = sorted({gpu_id for part in parts for gpu_id, _ in part.devices})
    with pipelined(session) as pipeline:  # in the order of locks
        locked_at = devices.ask_placement_lock(pipeline)
        owners = pipeline.ask(_CUSTOMERS, ids)
        limits = ask_limits_of_owners(pipeline, ids["ids"])
        rows = pipeline.ask(_REQUESTS, ids)
        host_rows = pipeline.ask(_HOSTS, {"ids": host_ids})
        gpu_rows = pipeline.ask(_GPUS, {"ids": gpu_ids})
        reserved = pipeline.ask(_RESERVED, {"ids": gpu_ids, "now": now})
        prices = ask_prices(pipeline, at=now)
        shares = devices.ask_shares(pipeline, gpu_ids)
        groups = ask_idle(pipeline, host_ids)
        used = pipeline.ask(_USED, {"ids": host_ids})
        standing = Standing(
            now=now,
            settings=settings,
            locked_at=locked_at(),
            customers=_customers(owners.all(), limits),
            requests={row.id: _locked(row) for row in rows.all()},
            hosts={row.id: _host(row) for row in host_rows.all()},
            gpus={row.id: GpuStanding(*row[1:]) for row in gpu_rows.all()},
            reserved={gpu_id: (reservation_id, ends_at) for gpu_id, reservation_id, ends_at in reserved.all()},
            prices=prices(),
            shares=shares(),
            groups=groups(),
            used={host_id: (cpu_milli, memory) for host_id, cpu_milli, memory in used.all()},
        )
    # Few have limits, words or costs, and without them nothing more is asked.
    standing.use = load_use(session, {key: each.limits for key, each in standing.customers.items()}, now=now)
    standing.apart = _load_apart(session, standing.requests.values(), host_ids)
    standing.wallets = lock_wallets(session, _payers(standing))
    return standing


def ask_customer_locks(pipeline: Pipeline, allocation_ids: Sequence[int]) -> None:
    """Of the allocations' customers, in the order that everybody keeps: before the allocations."""
    if allocation_ids:
        pipeline.ask(_CUSTOMERS, {"ids": allocation_ids})


def _locked(row: Any) -> Locked:
    return Locked(
        request=request_of(row),
        state=AllocationState(row.state),
        generation=row.generation,
        checkpoint_at=row.checkpoint_at,
        disk_bytes=row.disk_bytes,
        container_name=row.container_name,
        home_volume=row.home_volume,
        kind=row.kind,
        shm_bytes=row.shm_bytes,
    )


def _host(row: Any) -> HostStanding:
    return HostStanding(
        uid=str(row.uid),
        name=row.name,
        why_not=why_not_schedulable(row.admin_state, row.device_status),
        cpu_milli=row.cpu_milli,
        memory_bytes=row.memory_bytes,
        labels=row.labels,
        driver=read_version(row.driver),
        cuda=read_version(row.cuda),
    )


def _load_apart(session: Session, requests: Iterable[Locked], host_ids: Sequence[int]) -> set[tuple[int, int, str]]:
    """Of the words that these requests have: few do, and without one nothing is asked."""
    words = sorted({word for locked in requests if (word := locked.request.demand.apart) is not None})
    if not words:
        return set()
    rows = session.execute(_APART, {"ids": host_ids, "words": words})
    return {(host_id, customer_id, word) for host_id, customer_id, word in rows}


def _customers(rows: Sequence[Any], limits: AskedLimits) -> dict[int, CustomerStanding]:
    found = limits.of([row.id for row in rows])
    return {row.id: CustomerStanding(str(row.uid), row.currency, row.disabled, found[row.id]) for row in rows}


def _payers(standing: Standing) -> set[tuple[int, str]]:
    """Owners of the wallets that something may be taken from: where a device costs nothing, none need be locked."""
    models, prices = sorted({gpu.model for gpu in standing.gpus.values()}), standing.prices
    currencies = {customer.currency for customer in standing.customers.values()}
    free = {currency for currency in currencies if prices.is_free(models, currency)}
    return {
        (key, customer.currency)
        for key, customer in standing.customers.items()
        if customer.currency not in free or prices.is_special(key)
    }
