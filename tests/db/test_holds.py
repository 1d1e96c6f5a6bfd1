"""Holds: nothing runs that is not paid for, nothing is kept that can't be charged any more."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from api.allocations.tables import Allocation
from api.billing.holds import extend_hold
from api.billing.prices import create_price
from api.billing.settlement import Ending, settle_holds, sweep_holds
from api.billing.tables import Hold, JournalTransaction
from api.clock import to_ms
from api.db import Database
from tests.db.ledger_world import MICRO, World, await_waiting

PRICE = 3_600 * MICRO  # a unit a second


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def _transactions(database: Database) -> int:
    with database.session() as session:
        return session.scalars(select(func.count()).select_from(JournalTransaction)).one()


def test_the_balance_alone_keeps_racing_holds_apart(world: World, database: Database) -> None:
    """Without the customer's lock, the wallet's own is enough for the money."""
    price = world.price(PRICE)
    customer = world.customer(balance_micro=7 * (120 * MICRO + 1) + 3)
    _, gpus = world.host(gpus=20)
    allocations = [world.queue(customer, gpus=1) for _ in gpus]
    with ThreadPoolExecutor(16) as threads:
        leases = list(
            threads.map(lambda pair: world.place(pair[0], price, (pair[1],)), zip(allocations, gpus, strict=True))
        )
    assert sum(lease is not None for lease in leases) == 7
    assert world.balance(customer).available_micro == 3


def test_renewing_buys_in_steps(world: World, database: Database) -> None:
    """An hour of renewals every two seconds makes one journal transaction a minute, and is always paid for."""
    customer, (_, gpus) = world.customer(balance_micro=10_000 * MICRO), world.host(gpus=1)
    lease = world.start(customer, world.price(PRICE), gpus)
    before = _transactions(database)
    for _ in range(300):
        world.pass_time(2000)
        assert world.renew(lease) == world.now + timedelta(seconds=60)
    assert _transactions(database) - before <= 11


def test_a_hold_reaches_as_far_as_the_money(world: World, database: Database) -> None:
    customer, (_, gpus) = world.customer(balance_micro=200 * MICRO + 1), world.host(gpus=1)
    lease = world.start(customer, world.price(PRICE), gpus)
    for _ in range(200):
        world.pass_time(2000)
        limit = world.renew(lease)
    assert to_ms(limit) == lease.starts_ms + 200_000
    assert world.balance(customer).available_micro == 0
    world.top_up(customer, 50 * MICRO)
    with database.session() as session, session.begin():
        allocation = session.get_one(Allocation, lease.allocation_id)
        paid = extend_hold(session, allocation, until=world.now + timedelta(hours=1), now=world.now)
    assert to_ms(paid) == lease.starts_ms + 250_000


def test_rounding_is_paid_for_too(world: World) -> None:
    """Two devices at half a unit a millisecond, for an odd number of them: each rounds up, and the wallet is empty."""
    customer, (host, gpus) = world.customer(balance_micro=125_003), world.host(gpus=2)
    lease = world.start(customer, world.price(1_800_000), gpus)
    for _ in range(3):
        world.pass_time(40_000)
        limit = world.renew(lease)
    assert world.balance(customer).available_micro == 0
    assert to_ms(limit) - lease.starts_ms == 125_001
    world.pass_time(40_000)
    for gpu in range(2):
        world.deliver(host.id, world.window(lease, lease.starts_ms, to_ms(limit), gpu=gpu))
    assert world.balance(customer).balance_micro == 125_003 - 2 * 62_501


def test_a_free_price_holds_nothing(world: World) -> None:
    customer, (_, gpus) = world.customer(), world.host(gpus=1)
    price = world.price(0)
    lease = world.start(customer, price, gpus)
    world.pass_time(50_000)
    assert world.renew(lease) == world.now + timedelta(seconds=60)


def test_settling_keeps_what_may_still_be_proven(world: World, database: Database) -> None:
    customer, (host, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    lease = world.start(customer, world.price(PRICE), gpus)
    world.pass_time(10_000)
    start, end = lease.starts_ms, world.now_ms
    world.deliver(host.id, world.window(lease, start + 3000, start + 4000))
    late, last = world.window(lease, start + 4000, start + 9000), world.window(lease, start + 9000, end - 200)
    world.release(lease, ended_at_ms=end, last=last)
    assert world.balance(customer).held_micro == 9 * MICRO + 1
    assert database.transact(lambda session: sweep_holds(session, world.now)) == 0
    world.deliver(host.id, late)
    assert world.balance(customer).held_micro == 4 * MICRO + 1
    world.deliver(host.id, last)
    found = world.balance(customer)
    assert (found.available_micro, found.held_micro) == (1000 * MICRO - 6800 * 1000, 0), "at once, with no sweep"


def test_the_last_proof_may_come_before_the_release_is_recorded(world: World) -> None:
    customer, (host, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    lease = world.start(customer, world.price(PRICE), gpus)
    world.pass_time(10_000)
    last = world.window(lease, lease.starts_ms + 2000, world.now_ms)
    world.deliver(host.id, last)
    world.release(lease, ended_at_ms=world.now_ms, last=last)
    found = world.balance(customer)
    assert (found.available_micro, found.held_micro) == (992 * MICRO, 0)


def test_a_last_window_that_counts_for_nothing_ends_the_wait_too(world: World) -> None:
    customer, (host, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    lease = world.start(customer, world.price(PRICE), gpus)
    world.pass_time(10_000)
    last = world.window(lease, world.now_ms, world.now_ms + 500)
    world.release(lease, ended_at_ms=world.now_ms, last=last)
    assert world.balance(customer).held_micro == 10 * MICRO + 1
    world.deliver(host.id, last)
    assert world.balance(customer).held_micro == 0


def test_another_hosts_window_of_that_number_changes_nothing(world: World) -> None:
    customer, (host, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    other, _ = world.host(gpus=1)
    lease = world.start(customer, world.price(PRICE), gpus)
    world.pass_time(10_000)
    last = world.window(lease, lease.starts_ms, world.now_ms)
    world.release(lease, ended_at_ms=world.now_ms, last=last)
    world.deliver(other.id, last)
    assert world.balance(customer).held_micro == 10 * MICRO + 1
    world.deliver(host.id, last)
    assert (world.balance(customer).held_micro, world.balance(customer).balance_micro) == (0, 990 * MICRO)


def test_a_settled_hold_goes_back_without_the_last_proof_in_the_end(world: World, database: Database) -> None:
    """Its host answers, but its spool does not come: every millisecond proven, or a quarter of an hour."""
    customer, (host, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=2)
    price = world.price(PRICE)
    leases = [world.start(customer, price, (gpu,)) for gpu in gpus]
    world.pass_time(10_000)
    for lease in leases:
        world.release(lease, ended_at_ms=world.now_ms, last=world.window(lease, lease.starts_ms, world.now_ms))
    world.deliver(host.id, world.window(leases[0], leases[0].starts_ms, world.now_ms))
    assert database.transact(lambda session: sweep_holds(session, world.now)) == 1, "every millisecond is proven"
    assert database.transact(lambda session: sweep_holds(session, world.now + timedelta(minutes=14))) == 0
    assert database.transact(lambda session: sweep_holds(session, world.now + timedelta(minutes=16))) == 1
    assert world.balance(customer).held_micro == 0


def test_settling_twice_and_an_end_beyond_the_limit(world: World, database: Database) -> None:
    customer, (_, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    lease = world.start(customer, world.price(PRICE), gpus)
    world.pass_time(90_000)
    world.release(lease, ended_at_ms=world.now_ms, last=world.window(lease, lease.starts_ms, world.now_ms))
    assert world.balance(customer).held_micro == 60 * MICRO + 1, "run_until came before what the host says"
    before = _transactions(database)
    again = Ending(lease.allocation_id, lease.generation, run_until=None, ran=True, ends=None, host_lost=False)
    database.transact(lambda session: settle_holds(session, [again]))
    assert _transactions(database) == before


def test_a_price_that_changes_while_its_hold_is_settled(world: World, database: Database) -> None:
    customer, (_, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    lease, later = world.start(customer, world.price(PRICE), gpus), world.price(PRICE)
    with ThreadPoolExecutor(1) as other:
        with database.session() as renewal, renewal.begin():
            renewal.execute(update(Hold).values(price_version_id=later.id))
            release = other.submit(world.release, lease, ended_at_ms=world.now_ms)
            await_waiting(database, release)
        release.result()
    assert world.balance(customer).held_micro == 0


def test_a_generation_is_held_for_once(world: World, database: Database) -> None:
    customer = world.customer(balance_micro=1000 * MICRO)
    price, allocation_id = world.price(PRICE), world.queue(customer, gpus=1)

    def hold() -> bool:
        with database.session() as session, session.begin():
            allocation = session.get_one(Allocation, allocation_id)
            until = world.now + timedelta(seconds=10)
            return world.hold(session, allocation, price, devices_milli=1000, until=until)

    assert hold()
    with pytest.raises(IntegrityError):
        hold()
    assert world.balance(customer).held_micro == 10 * MICRO + 1


def test_another_currency_is_not_spent(world: World, database: Database) -> None:
    customer, (_, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    euros = database.transact(lambda session: create_price(session, gpu_model="A100", price_micro=1, currency="EUR"))
    assert world.place(world.queue(customer, gpus=1), euros, gpus) is None
    assert world.balance(customer).held_micro == 0
