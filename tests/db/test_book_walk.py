"""The continuous check finds what is wrong, cries no wolf, and sums no posting twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from api.billing import book_walk
from api.billing.book_walk import BookWalk
from api.db import Database
from tests.db.ledger_world import MICRO, World

PRICE = 3_600_000  # a unit a millisecond


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def walk(world: World) -> BookWalk:
    """Behind a first round, over two customers with something that runs."""
    price, (host, gpus) = world.price(PRICE), world.host(gpus=2)
    for gpu in gpus:
        lease = world.start(world.customer(balance_micro=MICRO), price, (gpu,))
        world.pass_time(1000)
        world.deliver(host.id, world.window(lease, lease.starts_ms, lease.starts_ms + 700))
    made = BookWalk()
    assert world.database.transact(made.turn) == []
    assert made.rounds == 1
    return made


def test_what_is_wrong_is_said_once_and_counted_until_it_is_right(walk: BookWalk, database: Database) -> None:
    for damage, repair, finding in (
        ("update accounts set balance_micro = balance_micro + 1 where kind = 'revenue'", "- 1", "postings sum to"),
        ("update accounts set balance_micro = balance_micro + 1 where kind = 'revenue'", "- 1", "in USD sum to"),
        ("update usage_meters set charged_micro = charged_micro + 1", "- 1", "is right"),
        ("update usage_meters set proven_ms = proven_ms + 1", "- 1", "its intervals sum to"),
        ("update holds set amount_micro = amount_micro - 1", "+ 1", "holds for"),
    ):
        with database.engine.begin() as connection:
            connection.execute(text(damage))
        found = database.transact(walk.turn)
        assert any(finding in sentence for sentence in found), damage
        assert set(found) <= walk.wrong
        assert database.transact(walk.turn) == [], "it is not said again"
        assert walk.wrong
        with database.engine.begin() as connection:
            connection.execute(text(damage.replace("+ 1", "@").replace("- 1", "@").replace("@", repair)))
        database.transact(walk.turn)
        assert walk.wrong == frozenset(), damage


def test_a_transaction_without_its_other_half_is_found(walk: BookWalk, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(text("delete from postings where id = (select max(id) from postings)"))
    assert any("postings that sum to" in sentence for sentence in database.transact(walk.turn))


def test_a_posting_is_summed_once_and_a_long_tail_in_parts(
    walk: BookWalk, world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_walk, "POSTINGS", 3)
    customer = world.customer(balance_micro=1)
    for _ in range(7):
        world.top_up(customer, 5)
    summed = []
    for _ in range(4):
        assert database.transact(walk.turn) == []
        with database.engine.connect() as connection:
            known = (
                "select c.balance_micro from account_checks c join accounts a on a.id = account_id"
                " where kind = 'wallet' and customer_id = :id"
            )
            summed.append(connection.scalar(text(known), {"id": customer.id}))
    assert summed == [11, 26, 36, 36]
    with database.engine.begin() as connection:
        connection.execute(text("update accounts set balance_micro = balance_micro + 1 where kind = 'wallet'"))
    assert len([each for each in database.transact(walk.turn) if "its postings sum to" in each]) == 3


def test_rounds_are_made_of_small_turns(walk: BookWalk, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNTS", "TRANSACTIONS", "METERS"):
        monkeypatch.setattr(book_walk, name, 1)
    with database.engine.begin() as connection:
        connection.execute(text("update accounts set balance_micro = balance_micro + 1 where kind = 'adjustments'"))
    found: list[str] = []
    for _ in range(40):
        found += database.transact(walk.turn)
    assert walk.rounds >= 2
    assert len([each for each in found if "its postings sum to" in each]) == 2, "both, once each"


def test_it_cries_no_wolf_while_money_moves(walk: BookWalk, world: World, database: Database) -> None:
    customers = [world.customer(balance_micro=1) for _ in range(3)]

    def pay(number: int) -> None:
        world.top_up(customers[number % 3], number + 1)

    with ThreadPoolExecutor(4) as threads:
        paying = [threads.submit(pay, number) for number in range(60)]
        while not all(future.done() for future in paying):
            assert database.transact(walk.turn) == []
    for future in paying:
        future.result()
    assert database.transact(walk.turn) == []
    assert walk.wrong == frozenset()
