"""Refund, transfer, adjustment and credit: never more than there is, whoever comes at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.billing import statement
from api.billing.accounts import customer_accounts
from api.billing.journal import JournalKind, balance, transfer
from api.billing.movements import (
    CurrenciesDifferError,
    OwedError,
    TooMuchError,
    adjust,
    refund,
    set_credit_limit,
    transfer_between,
)
from api.billing.verify import check
from api.clock import to_ms
from api.db import Database
from api.tenants.tables import Customer
from tests.db.conftest import Person, Tenant
from tests.db.ledger_world import MICRO, World, await_waiting
from tests.db.test_ledger_model import EVER

PRICE = 3_600 * MICRO  # a unit a second


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def _refund(session: Session, customer: Customer, amount_micro: int) -> None:
    refund(session, customer_id=customer.id, amount_micro=amount_micro, actor="test")


def _adjust(session: Session, customer: Customer, amount_micro: int) -> None:
    adjust(session, customer_id=customer.id, amount_micro=amount_micro, actor="test", reason="test")


def _transfer(session: Session, source: Customer, target: Customer, amount_micro: int) -> None:
    transfer_between(session, source_id=source.id, target_id=target.id, amount_micro=amount_micro, actor="test")


def _limit(database: Database, customer: Customer, limit_micro: int) -> None:
    database.transact(lambda session: set_credit_limit(session, customer_id=customer.id, limit_micro=limit_micro))


def _books(database: Database) -> list[str]:
    with database.session() as session:
        return check(session)


def test_what_was_paid_in_and_is_free_goes_back(world: World, database: Database) -> None:
    customer, (_, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=1)
    world.start(customer, world.price(PRICE), gpus)
    free = world.balance(customer).available_micro
    assert free == 880 * MICRO - 1
    with pytest.raises(TooMuchError, match=f"At most {free} "):
        database.transact(lambda session: _refund(session, customer, free + 1))
    database.transact(lambda session: _refund(session, customer, free))
    found = world.balance(customer)
    assert (found.available_micro, found.held_micro) == (0, 120 * MICRO + 1)
    assert _books(database) == []


def test_what_the_platform_gave_is_no_payment(world: World, database: Database) -> None:
    customer = world.customer(balance_micro=10)
    database.transact(lambda session: _adjust(session, customer, 90))
    with pytest.raises(TooMuchError, match="At most 10 "):
        database.transact(lambda session: _refund(session, customer, 11))
    database.transact(lambda session: _refund(session, customer, 10))
    with pytest.raises(TooMuchError, match="At most 0 "):
        database.transact(lambda session: _refund(session, customer, 1))
    assert world.balance(customer).balance_micro == 90


def test_what_was_given_in_place_of_what_was_used_is_no_payment(world: World, database: Database) -> None:
    customer, (host, gpus) = world.customer(balance_micro=100 * MICRO), world.host(gpus=1)
    lease = world.start(customer, world.price(PRICE), gpus, disconnect_s=40)
    world.pass_time(40_000)
    world.renew(lease)
    world.pass_time(40_000)
    world.deliver(host.id, world.window(lease, lease.starts_ms, world.now_ms))
    world.release(lease, ended_at_ms=world.now_ms)
    assert world.balance(customer).available_micro == 20 * MICRO
    database.transact(lambda session: _adjust(session, customer, 80 * MICRO))
    with pytest.raises(TooMuchError, match="At most 20000000 "):
        database.transact(lambda session: _refund(session, customer, 20 * MICRO + 1))
    database.transact(lambda session: _adjust(session, customer, -100 * MICRO))
    world.top_up(customer, 5)
    database.transact(lambda session: _refund(session, customer, 5))
    assert world.balance(customer).balance_micro == 0
    assert _books(database) == []


def test_an_adjustment_takes_what_there_is_and_no_more(world: World, database: Database) -> None:
    customer = world.customer(balance_micro=10)
    with pytest.raises(TooMuchError, match="At most 10 "):
        database.transact(lambda session: _adjust(session, customer, -11))
    database.transact(lambda session: _adjust(session, customer, -10))
    assert world.balance(customer).balance_micro == 0
    assert _books(database) == []


def test_of_two_refunds_at_once_the_second_sees_what_the_first_left(world: World, database: Database) -> None:
    customer = world.customer(balance_micro=100)
    with ThreadPoolExecutor(1) as other:
        with database.session() as first, first.begin():
            _refund(first, customer, 60)
            second = other.submit(database.transact, lambda session: _refund(session, customer, 60))
            await_waiting(database, second)
        with pytest.raises(TooMuchError, match="At most 40 "):
            second.result()
    assert world.balance(customer).balance_micro == 40


def test_many_refunds_at_once_give_back_what_there_was(world: World, database: Database) -> None:
    customer = world.customer(balance_micro=100)

    def attempt(_: int) -> bool:
        try:
            database.transact(lambda session: _refund(session, customer, 30))
        except TooMuchError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(8))) == 3
    assert world.balance(customer).balance_micro == 10
    assert _books(database) == []


def test_a_placing_sees_what_a_refund_left(world: World, database: Database) -> None:
    price = world.price(PRICE)
    customer, (_, gpus) = world.customer(balance_micro=121 * MICRO), world.host(gpus=1)
    allocation = world.queue(customer, gpus=1)
    with ThreadPoolExecutor(1) as other:
        with database.session() as first, first.begin():
            _refund(first, customer, MICRO)
            placing = other.submit(world.place, allocation, price, gpus)
            await_waiting(database, placing)
        assert placing.result() is None, "one unit for rounding is not covered any more"
    assert world.balance(customer).available_micro == 120 * MICRO


def test_a_refund_sees_what_a_placing_left(world: World, database: Database) -> None:
    price = world.price(PRICE)
    customer = world.customer(balance_micro=121 * MICRO)
    allocation_id = world.queue(customer, gpus=1)
    with ThreadPoolExecutor(1) as other:
        with database.session() as first, first.begin():
            allocation = first.get_one(Allocation, allocation_id, with_for_update=True)
            until = world.now + timedelta(seconds=120)
            assert world.hold(first, allocation, price, devices_milli=1000, until=until)
            second = other.submit(database.transact, lambda session: _refund(session, customer, MICRO))
            await_waiting(database, second)
        with pytest.raises(TooMuchError, match="At most 999999 "):
            second.result()
    assert world.balance(customer).balance_micro == 121 * MICRO


def test_transfers_in_circles_never_wait_for_each_other_in_one(world: World, database: Database) -> None:
    """Both directions at once and round three customers: a deadlock would be an error here, where nothing repeats."""
    customers = [world.customer(balance_micro=1000) for _ in range(3)]
    pairs = [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)] * 12

    def move(pair: tuple[int, int]) -> None:
        with database.session() as session, session.begin():
            _transfer(session, customers[pair[0]], customers[pair[1]], 7)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(move, pairs))
    assert [world.balance(customer).balance_micro for customer in customers] == [1000] * 3
    assert _books(database) == []


def test_what_was_transferred_is_as_if_paid_in(world: World, database: Database) -> None:
    giver, taker = world.customer(balance_micro=100), world.customer()
    with pytest.raises(TooMuchError, match="At most 100 "):
        database.transact(lambda session: _transfer(session, giver, taker, 101))
    database.transact(lambda session: _transfer(session, giver, taker, 70))
    with pytest.raises(TooMuchError, match="At most 30 "):
        database.transact(lambda session: _refund(session, giver, 31))
    database.transact(lambda session: _refund(session, taker, 70))
    assert (world.balance(giver).balance_micro, world.balance(taker).balance_micro) == (30, 0)
    assert _books(database) == []


def test_money_of_another_currency_is_not_transferred(world: World, database: Database) -> None:
    giver, taker = world.customer(balance_micro=100), world.customer()
    with database.session() as session, session.begin():
        session.get_one(Customer, taker.id).currency = "EUR"
    with pytest.raises(CurrenciesDifferError):
        database.transact(lambda session: _transfer(session, giver, taker, 1))


def test_credit_is_used_to_its_limit_and_no_further(world: World, database: Database) -> None:
    customer, (host, gpus) = world.customer(balance_micro=50 * MICRO), world.host(gpus=2)
    _limit(database, customer, 150 * MICRO + 1)
    price = world.price(PRICE)
    lease = world.start(customer, price, gpus[:1])
    assert world.balance(customer).available_micro == 80 * MICRO
    assert world.place(world.queue(customer, gpus=1), price, gpus[1:]) is None, "120 units are more than the limit"
    for _ in range(110):
        world.pass_time(2000)
        limit = world.renew(lease)
    assert to_ms(limit) == lease.starts_ms + 200_000
    world.deliver(host.id, world.window(lease, lease.starts_ms, to_ms(limit)))
    world.release(lease, ended_at_ms=world.now_ms)
    found = world.balance(customer)
    assert (found.balance_micro, found.available_micro, found.held_micro) == (-150 * MICRO, 1, 0)
    with pytest.raises(OwedError, match="150000000 "):
        _limit(database, customer, 150 * MICRO - 1)
    _limit(database, customer, 150 * MICRO)
    world.top_up(customer, 150 * MICRO)
    _limit(database, customer, 0)
    assert world.balance(customer).available_micro == 0
    assert _books(database) == []


def test_the_database_itself_refuses_to_go_beyond_the_limit(world: World, database: Database) -> None:
    customer = world.customer(balance_micro=10)
    _limit(database, customer, 5)

    def overdraw(amount: int) -> None:
        with database.session() as session, session.begin():
            accounts = customer_accounts(session, customer.id, "USD")
            transfer(
                session,
                customer_id=customer.id,
                key=f"k{amount}",
                kind=JournalKind.HOLD,
                actor="test",
                source=accounts.wallet,
                target=accounts.holds,
                amount_micro=amount,
            )

    with pytest.raises(IntegrityError, match="never_negative"):
        overdraw(16)
    overdraw(15)
    with pytest.raises(IntegrityError, match="credit_limit"), database.engine.begin() as connection:
        connection.execute(text("update accounts set credit_limit_micro = 1 where kind = 'holds'"))
    with pytest.raises(IntegrityError, match="paid_in"), database.engine.begin() as connection:
        connection.execute(text("update accounts set balance_micro = 1 where kind = 'funding'"))


def test_credit_is_nothing_to_give_away(world: World, database: Database) -> None:
    customer, other = world.customer(balance_micro=10), world.customer()
    _limit(database, customer, 100)
    for move in (
        lambda session: _refund(session, customer, 11),
        lambda session: _transfer(session, customer, other, 11),
    ):
        with pytest.raises(TooMuchError, match="At most 10 "):
            database.transact(move)
    database.transact(lambda session: _adjust(session, customer, -110))
    assert world.balance(customer).balance_micro == -100


def test_a_statement_adds_up_with_every_kind(world: World, database: Database) -> None:
    customer, other = world.customer(balance_micro=1000), world.customer(balance_micro=500)
    database.transact(lambda session: _refund(session, customer, 100))
    database.transact(lambda session: _transfer(session, customer, other, 50))
    database.transact(lambda session: _transfer(session, other, customer, 20))
    database.transact(lambda session: _adjust(session, customer, -7))
    with database.session() as session:
        totals = statement.totals(session, customer.id, EVER)
        assert totals.closing_micro == balance(session, customer.id).balance_micro == 863
    moved = (totals.top_ups_micro, totals.refunds_micro, totals.transfers_micro, totals.adjustments_micro)
    assert moved == (1000, -100, -30, -7)
    assert totals.opening_micro + sum(moved) == totals.closing_micro


def test_over_http(app_client: TestClient, admin: Person, tenant: Tenant, other_tenant: Tenant) -> None:
    path = f"/api/v1/admin/customers/{tenant.customer.uid}"

    def post(what: str, **body: object) -> tuple[int, dict[str, object]]:
        answer = app_client.post(f"{path}/{what}", headers={**admin.headers, "Idempotency-Key": what}, json=body)
        return answer.status_code, answer.json()

    assert post("top-up", amount_micro=100)[0] == 201
    assert post("refund", amount_micro=101)[1]["code"] == "not_enough"
    for what, body, left in (
        ("refund", {"amount_micro": 10, "note": "half of it"}, 90),
        ("transfer", {"to": str(other_tenant.customer.uid), "amount_micro": 40}, 50),
        ("adjustments", {"amount_micro": 5, "reason": "a host was slow"}, 55),
    ):
        for _ in range(2):
            status, found = post(what, **body)
            assert (status, found["balance_micro"]) == (201, left), found
    limit = app_client.put(f"{path}/credit-limit", headers=admin.headers, json={"credit_limit_micro": 1000})
    assert (limit.status_code, limit.json()["available_micro"]) == (200, 1055)
    journal = app_client.get("/api/v1/customer/billing/journal", headers=tenant.member.headers).json()["items"]
    assert [(each["kind"], each["note"]) for each in journal] == [
        ("adjustment", "a host was slow"),
        ("transfer_out", None),
        ("refund", "half of it"),
        ("top_up", None),
    ]
    for what, body in (
        ("transfer", {"to": str(tenant.customer.uid), "amount_micro": 1}),
        ("adjustments", {"amount_micro": 0, "reason": "none"}),
        ("adjustments", {"amount_micro": 1, "reason": ""}),
    ):
        answer = app_client.post(f"{path}/{what}", headers=admin.headers, json=body)
        assert answer.status_code == 422, answer.text
