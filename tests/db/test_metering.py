"""Proof of usage becomes exact charges, whatever happens on its way; what does not count is kept, with a reason."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from api.allocations.tables import Allocation
from api.allocations.transitions import move
from api.billing.settlement import Ending, settle_holds, sweep_holds
from api.billing.tables import Hold, JournalTransaction, PriceVersion
from api.billing.verify import check
from api.db import Database
from api.machines.tables import Gpu, Host
from api.metering.screening import Quarantine
from api.metering.tables import UsageInterval, UsageMeter, UsageWindow
from api.tenants.tables import Customer
from scheduler.states import AllocationState
from tests.db.ledger_world import MICRO, Lease, World, await_waiting

PRICE = 3_600 * MICRO  # 1 micro-unit a microsecond: a millisecond costs 1000


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    """Ends with a check of the books."""
    world = World(database)
    yield world
    with database.session() as session:
        assert check(session) == []


@pytest.fixture
def price(world: World) -> PriceVersion:
    return world.price(PRICE)


@pytest.fixture
def customer(world: World) -> Customer:
    return world.customer(balance_micro=1_000_000 * MICRO)


@pytest.fixture
def hardware(world: World) -> tuple[Host, tuple[Gpu, ...]]:
    return world.host(gpus=2)


@pytest.fixture
def host(hardware: tuple[Host, tuple[Gpu, ...]]) -> Host:
    return hardware[0]


@pytest.fixture
def lease(world: World, customer: Customer, price: PriceVersion, hardware: tuple[Host, tuple[Gpu, ...]]) -> Lease:
    """One GPU, granted for 60 s, 40 s of which have passed."""
    lease = world.start(customer, price, hardware[1][:1])
    world.pass_time(40_000)
    return lease


def _spent(world: World, customer: Customer) -> int:
    return 1_000_000 * MICRO - world.balance(customer).balance_micro


def _reasons(database: Database) -> list[str | None]:
    with database.session() as session:
        return list(session.scalars(select(UsageWindow.quarantine).order_by(UsageWindow.id)))


def _spans(database: Database) -> list[tuple[int, int]]:
    with database.session() as session:
        query = select(UsageInterval.from_ms, UsageInterval.to_ms).order_by(UsageInterval.from_ms)
        return [(row[0], row[1]) for row in session.execute(query)]


def test_every_proven_millisecond_is_billed(world: World, customer: Customer, host: Host, lease: Lease) -> None:
    start = lease.starts_ms
    receipt = world.deliver(
        host.id, world.window(lease, start + 100, start + 1100), world.window(lease, start + 1100, start + 1234)
    )
    assert (receipt.boot_id, receipt.accepted_through) == ("boot", 2)
    assert _spent(world, customer) == 1134 * 1000
    assert _spans(world.database) == [(start + 100, start + 1234)]


def test_replays_overlaps_and_disorder_change_nothing(
    world: World, customer: Customer, host: Host, lease: Lease
) -> None:
    start = lease.starts_ms
    first, second = world.window(lease, start, start + 1000), world.window(lease, start + 500, start + 2000)
    last = world.window(lease, start + 3000, start + 4000)
    world.deliver(host.id, last, first, first)
    world.deliver(host.id, first, second, last)
    world.deliver(host.id, second)
    assert _spent(world, customer) == 3000 * 1000
    assert _spans(world.database) == [(start, start + 2000), (start + 3000, start + 4000)]
    world.deliver(host.id, world.window(lease, start + 1900, start + 3100))
    assert _spent(world, customer) == 4000 * 1000
    assert _spans(world.database) == [(start, start + 4000)]


def test_filling_a_gap_rounds_once(world: World, hardware: tuple[Host, tuple[Gpu, ...]]) -> None:
    """At a third of a micro-unit a millisecond, three separate roundings would lose a unit."""
    host, gpus = hardware
    customer = world.customer(balance_micro=10 * MICRO)
    lease = world.start(customer, world.price(1_200_000), gpus[:1])
    world.pass_time(30_000)
    spent = []
    for step in (0, 2, 1):
        at = lease.starts_ms + step
        world.deliver(host.id, world.window(lease, at, at + 1))
        spent.append(10 * MICRO - world.balance(customer).balance_micro)
    assert spent == [0, 1, 1]


def test_what_lies_before_run_until_is_billed_and_the_rest_kept(
    world: World, customer: Customer, host: Host, lease: Lease, database: Database
) -> None:
    world.pass_time(40_000)
    limit = lease.starts_ms + 60_000
    world.deliver(host.id, world.window(lease, limit - 500, limit + 500), world.window(lease, limit, limit + 1))
    assert _spent(world, customer) == 500 * 1000
    assert _reasons(database) == [Quarantine.AFTER_RUN_UNTIL] * 2
    with database.session() as session:
        kept = session.scalars(select(UsageWindow).order_by(UsageWindow.id)).first()
    assert kept is not None
    assert (kept.from_ms, kept.to_ms) == (limit - 500, limit + 500)
    assert (kept.billed_from_ms, kept.billed_to_ms) == (limit - 500, limit)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"allocation_uid": "0192d1b0-0000-7000-8000-000000000000"}, Quarantine.UNKNOWN_ALLOCATION),
        ({"allocation_uid": "not an id"}, Quarantine.UNKNOWN_ALLOCATION),
        ({"generation": 0}, Quarantine.STALE_GENERATION),
        ({"generation": 2}, Quarantine.STALE_GENERATION),
        ({"device_uuid": "GPU-nowhere"}, Quarantine.WRONG_DEVICE),
        ({"milli": 500}, Quarantine.WRONG_SHARE),
        ({"milli": 0}, Quarantine.MALFORMED),
        ({"milli": 2**70}, Quarantine.MALFORMED),
        ({"from_ms": -5}, Quarantine.MALFORMED),
        ({"to_ms": 5}, Quarantine.MALFORMED),
        ({"to_ms": 2**80}, Quarantine.MALFORMED),
        ({"container_id": "a\0b"}, Quarantine.MALFORMED),
        ({"device_uuid": "x" * 5000}, Quarantine.MALFORMED),
    ],
)
def test_quarantine(
    world: World, customer: Customer, host: Host, lease: Lease, changes: dict[str, object], reason: Quarantine
) -> None:
    good = world.window(lease, lease.starts_ms, lease.starts_ms + 1000)
    bad = replace(world.window(lease, lease.starts_ms + 1000, lease.starts_ms + 2000), **changes)  # type: ignore[arg-type]
    assert world.deliver(host.id, bad, good).accepted_through == 2
    assert sorted(_reasons(world.database), key=str) == sorted([reason, None], key=str)
    assert _spent(world, customer) == 1000 * 1000


def test_another_hosts_device(world: World, customer: Customer, host: Host, lease: Lease) -> None:
    other, _ = world.host(gpus=1)
    world.deliver(other.id, world.window(lease, lease.starts_ms, lease.starts_ms + 1000))
    assert _reasons(world.database) == [Quarantine.WRONG_HOST]
    assert _spent(world, customer) == 0


def test_a_sequence_number_used_twice_is_kept_once_more(
    world: World, customer: Customer, host: Host, lease: Lease
) -> None:
    start = lease.starts_ms
    first = world.window(lease, start, start + 1000, sequence=7)
    other = world.window(lease, start + 1000, start + 9000, sequence=7)
    world.deliver(host.id, first, other)
    world.deliver(host.id, other, first)
    assert _reasons(world.database) == [None, Quarantine.SEQUENCE_REUSED]
    assert _spent(world, customer) == 1000 * 1000


def test_a_batch_of_many_and_its_replay_beside_what_is_new(
    world: World, customer: Customer, price: PriceVersion, hardware: tuple[Host, tuple[Gpu, ...]], database: Database
) -> None:
    """Two customers, two devices, gaps in time and in the numbers: each window counts once, whatever comes with it."""
    host, gpus = hardware
    other = world.customer(balance_micro=1_000_000 * MICRO)
    leases = [world.start(customer, price, gpus[:1]), world.start(other, price, gpus[1:])]
    world.pass_time(40_000)
    start = leases[0].starts_ms
    windows = [
        world.window(lease, start + at, start + at + 1000) for at in (0, 1000, 5000, 6000, 9000) for lease in leases
    ]
    held_back, first, later = windows[4:6], windows[:4] + windows[6:8], windows[8:]
    world.deliver(host.id, *first)
    assert _received(database) == {"boot": "{[1,5),[7,9)}"}
    assert [_spent(world, each) for each in (customer, other)] == [3000 * 1000] * 2
    world.deliver(host.id, *first, *held_back, *later)
    assert _received(database) == {"boot": "{[1,11)}"}
    assert [_spent(world, each) for each in (customer, other)] == [5000 * 1000] * 2
    assert _spans(database)[::2] == [(start, start + 2000), (start + 5000, start + 7000), (start + 9000, start + 10000)]
    with database.session() as session:
        kept = {
            (row.sequence, row.allocation_uid, row.from_ms, row.to_ms, row.billed_from_ms, row.billed_to_ms)
            for row in session.scalars(select(UsageWindow))
        }
        journal = session.scalars(select(JournalTransaction.kind).where(JournalTransaction.kind == "usage")).all()
    assert kept == {(w.sequence, w.allocation_uid, w.from_ms, w.to_ms, w.from_ms, w.to_ms) for w in windows}
    assert len(journal) == 4


def _received(database: Database) -> dict[str, str]:
    with database.session() as session:
        found = session.execute(text("select boot_id, sequences::text from usage_received"))
        return {row.boot_id: row.sequences for row in found}


def test_numbers_as_large_as_they_get(world: World, customer: Customer, host: Host, lease: Lease) -> None:
    start = lease.starts_ms
    largest = world.window(lease, start, start + 1000, sequence=2**63 - 2)
    world.deliver(host.id, largest, world.window(lease, start + 5000, start + 6000, sequence=2**80))
    world.deliver(host.id, largest, world.window(lease, start + 1000, start + 2000, sequence=-4))
    assert _received(world.database) == {"boot": "{[-4,-3),[9223372036854775806,9223372036854775807)}"}
    assert _reasons(world.database) == [None, Quarantine.SEQUENCE_REUSED, None]
    assert _spent(world, customer) == 2000 * 1000


def test_numbers_that_are_far_apart(world: World, customer: Customer, host: Host, lease: Lease) -> None:
    start = lease.starts_ms
    windows = [
        world.window(lease, start + 1000 * at, start + 1000 * (at + 1), sequence=number)
        for at, number in enumerate((-(2**70), 2**80, 1, 2, 3, 2**62))
    ]
    world.deliver(host.id, *windows[:4])
    world.deliver(host.id, *windows[3:])
    assert sorted(map(str, _reasons(world.database))) == [*["None"] * 4, *["malformed"] * 2]
    assert _spent(world, customer) == 4000 * 1000


def test_clocks(world: World, customer: Customer, host: Host, lease: Lease) -> None:
    """A host whose clock is ahead can't prove the future, nor one behind a time before its lease."""
    now, start = world.now_ms, lease.starts_ms
    world.deliver(host.id, world.window(lease, now - 1000, now + 9000), world.window(lease, start - 1000, start + 1000))
    assert _reasons(world.database) == [Quarantine.IN_THE_FUTURE, Quarantine.BEFORE_PLACEMENT]
    assert _spent(world, customer) == (1000 + 5000 + 1000) * 1000


def test_proof_after_a_confirmed_end(world: World, customer: Customer, host: Host, lease: Lease) -> None:
    end = world.now_ms
    late = world.window(lease, end - 1000, end + 1000)
    world.release(lease, ended_at_ms=end, last=late)
    world.pass_time(60_000)
    world.deliver(host.id, late)
    assert _reasons(world.database) == [Quarantine.AFTER_END]
    assert _spent(world, customer) == 1000 * 1000


def test_late_proof_of_a_lost_host_is_paid_from_its_hold(
    world: World, price: PriceVersion, hardware: tuple[Host, tuple[Gpu, ...]]
) -> None:
    """The wallet is empty by then: only what was held pays."""
    host, gpus = hardware
    customer = world.customer(balance_micro=121 * MICRO)
    lease = world.start(customer, price, gpus[:1])
    world.pass_time(6 * 86_400_000)
    world.release(lease, ended_at_ms=None)
    held = world.balance(customer)
    assert held.held_micro == 60 * MICRO + 1
    second = world.queue(customer, gpus=1)
    assert world.place(second, world.price(2 * 3_600 * 252_000, gpu_model="H100"), gpus[1:]) is not None
    world.deliver(host.id, world.window(lease, lease.starts_ms, lease.starts_ms + 60_000))
    assert held.balance_micro - world.balance(customer).balance_micro == 60 * MICRO


def test_proof_after_its_hold_was_given_back(
    world: World, customer: Customer, host: Host, lease: Lease, database: Database
) -> None:
    world.release(lease, ended_at_ms=world.now_ms, last=world.window(lease, lease.starts_ms, world.now_ms))
    world.pass_time(3_600_000)
    assert database.transact(lambda session: sweep_holds(session, world.now)) == 1
    assert world.balance(customer).held_micro == 0
    world.deliver(host.id, world.window(lease, lease.starts_ms, lease.starts_ms + 1000))
    assert _spent(world, customer) == 1000 * 1000
    world.pass_time(86_400_000)
    database.transact(lambda session: sweep_holds(session, world.now + timedelta(days=2)))
    assert world.balance(customer).held_micro == 0


def test_proof_that_nobody_can_pay_any_more(
    world: World, price: PriceVersion, hardware: tuple[Host, tuple[Gpu, ...]], database: Database
) -> None:
    host, gpus = hardware
    customer = world.customer(balance_micro=121 * MICRO)
    lease = world.start(customer, price, gpus[:1])
    world.pass_time(60_000)
    world.release(lease, ended_at_ms=world.now_ms)
    assert world.place(world.queue(customer, gpus=1), price, gpus[1:]) is not None
    world.deliver(host.id, world.window(lease, lease.starts_ms, lease.starts_ms + 1000))
    assert _reasons(database) == [Quarantine.UNFUNDED]
    assert world.balance(customer).balance_micro == 121 * MICRO


def test_a_placement_taken_back_costs_nothing(
    world: World, customer: Customer, price: PriceVersion, hardware: tuple[Host, tuple[Gpu, ...]], database: Database
) -> None:
    host, gpus = hardware
    lease = world.place(world.queue(customer, gpus=1), price, gpus[:1], active=False)
    assert lease is not None

    def unplace() -> None:
        with database.session() as session, session.begin():
            allocation = session.get_one(Allocation, lease.allocation_id, with_for_update=True)
            move(session, allocation, AllocationState.QUEUED, actor="test")
            session.flush()
            ending = Ending(allocation.id, allocation.generation, None, ran=False, ends=None, host_lost=False)
            settle_holds(session, [ending])

    unplace()
    assert world.balance(customer).held_micro == 0
    world.pass_time(2000)
    world.deliver(host.id, world.window(lease, lease.starts_ms, lease.starts_ms + 1000))
    assert _spent(world, customer) == 0
    assert world.place(lease.allocation_id, price, gpus[1:]) is not None
    world.deliver(host.id, world.window(lease, lease.starts_ms, lease.starts_ms + 1000))
    assert _reasons(database) == [Quarantine.AFTER_END, Quarantine.STALE_GENERATION]
    with database.session() as session:
        assert len(list(session.scalars(select(Hold)))) == 2
        assert list(session.scalars(select(UsageMeter))) == []


def test_a_price_that_changes_while_its_hold_is_waited_for(
    world: World, customer: Customer, host: Host, lease: Lease, database: Database
) -> None:
    later, window = world.price(PRICE), world.window(lease, lease.starts_ms, lease.starts_ms + 1000)
    with ThreadPoolExecutor(1) as other:
        with database.session() as renewal, renewal.begin():
            renewal.execute(update(Hold).values(price_version_id=later.id))
            report = other.submit(world.deliver, host.id, window)
            await_waiting(database, report)
        report.result()
    assert (_reasons(database), _spent(world, customer)) == ([None], 1000 * 1000)


def test_an_empty_batch(world: World, host: Host) -> None:
    assert world.deliver(host.id).accepted_through == -1


def test_everything_at_once(world: World, price: PriceVersion, hardware: tuple[Host, tuple[Gpu, ...]]) -> None:
    """The same reports from several agents, renewals and the end race each other; no deadlock gets through."""
    host, gpus = hardware
    customer = world.customer(balance_micro=1_000_000 * MICRO)
    leases = [world.start(customer, price, gpus[:1]), world.start(customer, price, gpus[1:])]
    world.pass_time(40_000)
    start = leases[0].starts_ms
    windows = [world.window(lease, start + at, start + at + 1000) for lease in leases for at in range(0, 20_000, 1000)]
    batches = [windows[at : at + 10] for at in range(0, len(windows), 5)]
    ends = [
        lambda lease=lease, last=last: world.release(lease, ended_at_ms=start + 20_000, last=last)
        for lease, last in zip(leases, (windows[19], windows[39]), strict=True)
    ]
    renewals = [lambda lease=lease: world.renew(lease) for lease in leases]
    deliveries = [lambda batch=batch: world.deliver(host.id, *batch) for batch in batches for _ in range(3)]
    with ThreadPoolExecutor(12) as threads:
        for done in [threads.submit(each) for each in (*renewals, *deliveries[:12], *ends, *deliveries[12:])]:
            done.result()
    assert _spent(world, customer) == 2 * 20_000 * 1000
    assert _reasons(world.database) == [None] * len(windows)
    assert world.balance(customer).held_micro == 0
