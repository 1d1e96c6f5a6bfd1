"""Which price version is in force for a device and a customer, and what of it is kept with what runs."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import IntegrityError

from api.billing.prices import Payer, Quote, create_price, load_prices
from api.billing.tables import Hold, HoldPrice
from api.billing.verify import check
from api.db import Database
from api.metering.tables import UsageMeter
from scheduler.prices import PriceTerms
from tests.db.ledger_world import MICRO, World

A100 = "NVIDIA A100-SXM4-80GB"


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def add(world: World, micro: int, *, hours: int = 0, gpu_model: str | None = "A100", **more: Any) -> None:
    """A version in force from so many hours after the world's now."""
    at = world.now + timedelta(hours=hours)
    world.database.transact(
        lambda session: create_price(session, gpu_model=gpu_model, price_micro=micro, effective_from=at, **more)
    )


def found(world: World, payer: Payer, *, model: str = A100, at: datetime | None = None) -> int | None:
    with world.database.session() as session:
        price = load_prices(session, at=at or world.now).price_of(model, payer)
    return None if price is None else price.price_micro


def test_the_latest_price_with_most_words_wins(world: World) -> None:
    add(world, 1), add(world, 2, gpu_model="A100-80GB"), add(world, 3, gpu_model="A100-80GB", hours=1)
    add(world, 4, hours=2), add(world, 5, gpu_model="H100")
    payer, forty = Payer(1, "USD"), "NVIDIA A100-SXM4-40GB"
    at = {hours: world.now + timedelta(hours=hours) for hours in (-1, 0, 1, 2, 5)}
    assert [found(world, payer, at=at[hours]) for hours in (-1, 0, 1, 5)] == [None, 2, 3, 3]
    assert [found(world, payer, at=at[hours], model=forty) for hours in (0, 2)] == [1, 4]
    assert found(world, payer, model="NVIDIA L4") is None
    assert found(world, Payer(1, "EUR")) is None


def test_a_price_stays_in_force_however_many_come_after_it(world: World, database: Database) -> None:
    add(world, 7, gpu_model="H100", hours=-9)
    add(world, 8, hours=2), add(world, 9, hours=1)
    many = (
        "insert into price_versions (uid, gpu_model, price_micro, effective_from) select gen_random_uuid(), 'A100', n,"
        " cast(:now as timestamptz) - n * interval '1 s' from generate_series(1, 10001) n"
    )
    with database.engine.begin() as connection:
        connection.execute(text(many), {"now": world.now})
    payer = Payer(1, "USD")
    assert [found(world, payer, model=model) for model in ("NVIDIA H100", A100)] == [7, 1]
    with database.session() as session:
        prices, last = load_prices(session, at=world.now), load_prices(session, at=world.now + timedelta(hours=2))
    assert (len(prices.versions), prices.next_change) == (2, world.now + timedelta(hours=1))
    assert (found(world, payer, at=world.now + timedelta(hours=2)), last.next_change) == (8, None)


def test_a_narrower_reach_wins_over_more_words_and_later_ones(world: World) -> None:
    acme, other = world.customer(), world.customer()
    add(world, 9, gpu_model="A100-80GB", hours=3)
    add(world, 7, customer_id=acme.id)
    add(world, 6, customer_id=acme.id, hours=1)
    add(world, 5, customer_id=acme.id, capacity_group="team")
    at = world.now + timedelta(hours=4)
    assert found(world, Payer(acme.id, "USD"), at=world.now) == 7
    assert found(world, Payer(acme.id, "USD"), at=at) == 6
    assert found(world, Payer(acme.id, "USD", "team"), at=at) == 5
    assert found(world, Payer(acme.id, "USD", "another"), at=at) == 6
    assert found(world, Payer(other.id, "USD"), at=at) == 9
    assert found(world, Payer(other.id, "USD", "team"), at=at) == 9, "a group of that name is somebody else's"
    assert found(world, Payer(other.id, "USD"), at=world.now) is None


def test_other_units_are_no_gpu_prices(world: World) -> None:
    add(world, 9, gpu_model=None, unit="cpu_core_hour")
    with world.database.session() as session:
        assert load_prices(session, at=world.now).versions == []
    for wrong in ({"unit": "cpu_core_hour"}, {"gpu_model": None}, {"capacity_group": "g"}, {"unit": "mile"}):
        with pytest.raises(IntegrityError):
            add(world, 1, **wrong)
    with pytest.raises(IntegrityError):
        add(world, 1, reserved_discount_permille=1001)


def test_what_runs_is_charged_by_what_was_stored_with_it(world: World, database: Database) -> None:
    """A third off, rounded down once; the verifier derives it from the version again, for hold and meter."""
    customer, (host, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    add(world, 3_600_001, preemptible_discount_permille=333, reserved_discount_permille=500)
    with database.session() as session:
        price = load_prices(session, at=world.now).price_of(A100, Payer(customer.id, "USD"))
    assert price is not None
    quote = price.quote(preemptible=True, reserved=False)
    assert quote == Quote(price.id, "USD", PriceTerms.PREEMPTIBLE, 2_401_200)
    lease = world.place(world.queue(customer, gpus=1), quote, gpus)
    assert lease is not None
    world.pass_time(3000)
    world.deliver(host.id, world.window(lease, lease.starts_ms, world.now_ms))
    assert world.balance(customer).balance_micro == 1000 * MICRO - 2001, "3 s at 2.4012 an hour"
    with database.session() as session:
        assert check(session) == []
        for table in (Hold, UsageMeter):
            session.execute(update(table).values(terms="reserved"))
        assert [finding.split(",")[1] for finding in check(session)] == [
            " its version asks for 1800000 on its terms"
        ] * 2


def test_discounts_do_not_add_up(world: World) -> None:
    add(world, 1000, preemptible_discount_permille=300, reserved_discount_permille=200)
    with world.database.session() as session:
        price = load_prices(session, at=world.now).price_of(A100, Payer(1, "USD"))
    assert price is not None
    found = {
        (preemptible, reserved): price.quote(preemptible=preemptible, reserved=reserved)
        for preemptible in (False, True)
        for reserved in (False, True)
    }
    assert {key: (str(quote.terms), quote.price_micro_per_gpu_hour) for key, quote in found.items()} == {
        (False, False): ("on_demand", 1000),
        (False, True): ("reserved", 800),
        (True, False): ("preemptible", 700),
        (True, True): ("preemptible", 700),
    }


def test_a_window_across_the_end_of_a_promise_is_cut_there(world: World, database: Database) -> None:
    """60 s at 3.60 an hour on each of two devices, then 3 s at 7.20: each at its own price, in meters of their own."""
    customer = world.customer(balance_micro=1000 * MICRO)
    host, gpus = world.host(gpus=2)
    add(world, 3_600_000, kept_for_s=120)
    with database.session() as session:
        price = load_prices(session, at=world.now).price_of(A100, Payer(customer.id, "USD"))
    assert price is not None
    lease = world.place(
        world.queue(customer, gpus=2), price.quote(preemptible=False, reserved=False), gpus, active=True
    )
    assert lease is not None
    world.pass_time(1000)
    add(world, 7_200_000, preemptible_discount_permille=500)
    for _ in range(3):
        world.pass_time(59_000)
        limit = world.renew(lease)
        assert limit == world.now + timedelta(seconds=60), "all of it is paid for"
    boundary = lease.starts_ms + 120_000
    with database.session() as session:
        hold = session.get_one(Hold, (lease.allocation_id, lease.generation))
        assert (hold.price_from_ms, hold.price_until_ms, hold.price_micro_per_gpu_hour) == (boundary, None, 7_200_000)
        assert hold.earlier_micro == 2 * 120_000 + 2
        assert hold.bought_micro == hold.earlier_micro + 2 * 2 * (hold.covers_until_ms - boundary) + 2
        (earlier,) = session.query(HoldPrice)
        assert (earlier.from_ms, earlier.until_ms, earlier.price_version_id) == (lease.starts_ms, boundary, price.id)
    for gpu in (0, 1):
        world.deliver(host.id, world.window(lease, boundary - 60_000, boundary + 3000, gpu=gpu))
    cost = 2 * (60_000 + 6000)
    assert world.balance(customer).balance_micro == 1000 * MICRO - cost
    with database.session() as session:
        assert check(session) == []
        meters = session.query(UsageMeter).order_by(UsageMeter.gpu_id, UsageMeter.price_from_ms)
        assert [(meter.price_from_ms, meter.proven_ms, meter.charged_micro) for meter in meters] == [
            (lease.starts_ms, 60_000, 60_000),
            (boundary, 3000, 6000),
        ] * 2
    world.release(lease, ended_at_ms=boundary + 3000, last=None)
    found = world.balance(customer)
    assert (found.held_micro, found.available_micro) == (0, 1000 * MICRO - cost)


def test_what_is_kept_at_the_end_counts_each_stretch(world: World, database: Database) -> None:
    """Stopped in the second stretch with proof of both to come: exactly that stays held."""
    customer, (host, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    add(world, 3_600_000, kept_for_s=120)
    with database.session() as session:
        price = load_prices(session, at=world.now).price_of(A100, Payer(customer.id, "USD"))
    assert price is not None
    lease = world.place(world.queue(customer, gpus=1), price.quote(preemptible=False, reserved=False), gpus)
    assert lease is not None
    add(world, 0)
    world.pass_time(61_000)
    world.renew(lease)
    world.pass_time(60_000)
    world.renew(lease)
    first = world.window(lease, lease.starts_ms, lease.starts_ms + 100_000)
    last = world.window(lease, lease.starts_ms + 100_000, world.now_ms)
    world.release(lease, ended_at_ms=world.now_ms, last=last)
    assert world.balance(customer).held_micro == 120_001, "the second stretch is free"
    world.deliver(host.id, first)
    assert world.balance(customer).held_micro == 20_001
    world.deliver(host.id, last)
    found = world.balance(customer)
    assert (found.held_micro, found.available_micro) == (0, 1000 * MICRO - 120_000)
    with database.session() as session:
        assert check(session) == []
        session.execute(update(HoldPrice).values(until_ms=HoldPrice.until_ms - 1))
        assert any("do not follow one another" in finding for finding in check(session))
