"""Promotion credit is spent first, the earliest to lapse before the others, and goes back where it is not."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.billing import statement
from api.billing.accounts import customer_accounts
from api.billing.journal import Entry, JournalKind, Transaction, post
from api.billing.movements import TooMuchError, refund
from api.billing.promotions import grant, lapse, promotions_page
from api.billing.tables import Account
from api.billing.verify import check
from api.clock import utc_now
from api.db import Database
from api.ids import new_uid
from api.tenants.tables import Customer
from tests.db.conftest import Person, Tenant
from tests.db.ledger_world import MICRO, World, await_waiting
from tests.db.test_ledger_model import EVER

PRICE = 3_600 * MICRO  # a unit a second


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def _grant(world: World, customer: Customer, amount_micro: int, *, days: float) -> None:
    world.database.transact(
        lambda session: grant(
            session,
            customer_id=customer.id,
            amount_micro=amount_micro,
            expires_at=world.now + timedelta(days=days),
            actor="test",
            now=world.now,
        )
    )


def _lapse(world: World, *, days: float = 0) -> int:
    return world.database.transact(lambda session: lapse(session, world.now + timedelta(days=days)))


def _left(world: World, customer: Customer) -> list[int]:
    """Of each, the first given first."""
    with world.database.session() as session:
        found, _ = promotions_page(session, customer.id, cursor=None, limit=200)
        assert check(session) == []
    return [each.left_micro for each in reversed(found)]


def _move(session: Session, customer: Customer, kind: JournalKind, amount_micro: int) -> None:
    """Between wallet, holds and revenue, as what runs does."""
    accounts = customer_accounts(session, customer.id, "USD")
    source, target = {
        JournalKind.HOLD: (accounts.wallet, accounts.holds),
        JournalKind.HOLD_RELEASE: (accounts.holds, accounts.wallet),
        JournalKind.USAGE: (accounts.holds, accounts.revenue),
    }[kind]
    postings = (Entry(source, -amount_micro), Entry(target, amount_micro))
    post(session, Transaction(customer.id, str(new_uid()), kind, "test", postings))


def _use(world: World, customer: Customer, amount_micro: int) -> None:
    def work(session: Session) -> None:
        _move(session, customer, JournalKind.HOLD, amount_micro)
        _move(session, customer, JournalKind.USAGE, amount_micro)

    world.database.transact(work)


def test_credit_is_spent_before_money_and_in_the_order_of_its_ends(world: World) -> None:
    customer = world.customer(balance_micro=100)
    _use(world, customer, 5)
    _grant(world, customer, 30, days=9)
    _grant(world, customer, 50, days=2)
    assert _left(world, customer) == [30, 50], "what was charged before is not paid with it"
    _use(world, customer, 60)
    assert _left(world, customer) == [20, 0]
    _use(world, customer, 25)
    assert _left(world, customer) == [0, 0]
    assert world.balance(customer).balance_micro == 90


def test_what_is_unspent_goes_back(world: World) -> None:
    customer = world.customer(balance_micro=100)
    _grant(world, customer, 30, days=1)
    _grant(world, customer, 50, days=2)
    _use(world, customer, 10)
    assert _lapse(world, days=0.9) == 0
    assert world.balance(customer).balance_micro == 170
    assert _lapse(world, days=1) == 1
    assert (world.balance(customer).balance_micro, _left(world, customer)) == (150, [0, 50])
    assert _lapse(world, days=3) == 1
    assert _lapse(world, days=4) == 0
    assert (world.balance(customer).balance_micro, _left(world, customer)) == (100, [0, 0])
    with world.database.session() as session:
        totals = statement.totals(session, customer.id, EVER)
    assert (totals.top_ups_micro, totals.promotions_micro, totals.closing_micro) == (100, 10, 100)


def test_what_is_held_when_it_ends_stays_until_it_is_known_whether_it_was_used(world: World) -> None:
    customer, (host, gpus) = world.customer(balance_micro=100 * MICRO), world.host(gpus=1)
    _grant(world, customer, 200 * MICRO, days=1)
    lease = world.start(customer, world.price(PRICE), gpus)
    held = 120 * MICRO + 1
    assert _lapse(world, days=2) == 0
    assert _left(world, customer) == [held]
    assert world.balance(customer).balance_micro == 100 * MICRO + held
    world.pass_time(20_000)
    last = world.window(lease, lease.starts_ms, lease.starts_ms + 20_000)
    world.deliver(host.id, last)
    assert _left(world, customer) == [held - 20 * MICRO]
    world.release(lease, ended_at_ms=world.now_ms, last=last)
    assert _lapse(world, days=2) == 1
    assert world.balance(customer).balance_micro == 100 * MICRO


def test_credit_is_not_refunded(world: World) -> None:
    customer, (_, gpus) = world.customer(balance_micro=100 * MICRO), world.host(gpus=1)
    _grant(world, customer, 150 * MICRO, days=1)
    world.start(customer, world.price(PRICE), gpus)

    def give_back(amount_micro: int) -> None:
        world.database.transact(
            lambda session: refund(session, customer_id=customer.id, amount_micro=amount_micro, actor="test")
        )

    with pytest.raises(TooMuchError, match="At most 100000000 "):
        give_back(100 * MICRO + 1)
    give_back(100 * MICRO)
    assert _lapse(world, days=1) == 0
    assert world.balance(customer).available_micro == 0, "the rest is held, and was paid with the credit"


def test_a_grant_waits_for_a_placing_before_it_locks_the_accounts(world: World, database: Database) -> None:
    customer = world.customer(balance_micro=100)
    with ThreadPoolExecutor(1) as other:
        with database.session() as placing, placing.begin():
            placing.execute(select(Customer.id).where(Customer.id == customer.id).with_for_update())
            second = other.submit(_grant, world, customer, 30, days=1)
            await_waiting(database, second)
            accounts = select(Account.id).where(Account.customer_id == customer.id)
            assert placing.scalars(accounts.with_for_update(key_share=True, nowait=True)).all() != []
        second.result()
    assert world.balance(customer).balance_micro == 130


def test_of_two_sweeps_at_once_one_takes_it_back(world: World) -> None:
    customer = world.customer(balance_micro=100)
    _grant(world, customer, 30, days=1)
    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(lambda _: _lapse(world, days=1), range(8))) == 1
    assert world.balance(customer).balance_micro == 100


def test_many_grants_uses_and_ends_agree_with_a_purse_of_coins(world: World) -> None:
    """Against a model that moves one credit at a time, at each charge."""
    chance = random.Random(20261126)
    customer = world.customer(balance_micro=10_000)
    purse: list[tuple[datetime, int, int]] = []  # end, number, left
    own, given = 10_000, 0

    def spend(amount: int) -> None:
        nonlocal own
        for place, (end, number, left) in enumerate(sorted(purse)):
            taken = min(left, amount)
            amount -= taken
            purse[purse.index((end, number, left))] = (end, number, left - taken)
            assert place < len(purse)
        own -= amount

    for _ in range(120):
        match chance.choice(("grant", "use", "use", "lapse")):
            case "grant":
                days, amount = chance.randint(1, 9), chance.randint(1, 400)
                _grant(world, customer, amount, days=days)
                purse.append((world.now + timedelta(days=days), given, amount))
                given += 1
            case "use":
                amount = chance.randint(1, 150)
                _use(world, customer, amount)
                spend(amount)
            case "lapse":
                world.pass_time(chance.randint(0, 2 * 86_400_000))
                _lapse(world)
                purse = [(end, number, 0 if end <= world.now else left) for end, number, left in purse]
    assert _left(world, customer) == [left for _, _, left in sorted(purse, key=lambda coin: coin[1])]
    assert world.balance(customer).balance_micro == own + sum(left for _, _, left in purse)


def test_over_http(app_client: TestClient, admin: Person, tenant: Tenant, database: Database) -> None:
    path = f"/api/v1/admin/customers/{tenant.customer.uid}/promotions"
    until = (utc_now() + timedelta(days=1)).isoformat()
    headers = {**admin.headers, "Idempotency-Key": "welcome"}
    body = {"amount_micro": 7 * MICRO, "expires_at": until, "note": "welcome"}
    made = [app_client.post(path, headers=headers, json=body).json() for _ in range(2)]
    assert made[0] == made[1] and made[0]["left_micro"] == 7 * MICRO, made
    with database.session() as session, session.begin():
        _move(session, tenant.customer, JournalKind.HOLD, 2 * MICRO)
        _move(session, tenant.customer, JournalKind.USAGE, MICRO)
    own = app_client.get("/api/v1/customer/billing/promotions", headers=tenant.member.headers).json()["items"]
    assert own == app_client.get(path, headers=admin.headers).json()["items"]
    assert own == [{**made[0], "left_micro": 6 * MICRO}]
    past = {**body, "expires_at": (utc_now() - timedelta(seconds=1)).isoformat()}
    assert app_client.post(path, headers=admin.headers, json=past).status_code == 422
