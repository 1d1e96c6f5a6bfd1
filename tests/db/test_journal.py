"""The journal balances, posts a cause once, and stays as it was written."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from api.audit.service import record
from api.billing.accounts import customer_accounts
from api.billing.journal import Entry, JournalKind, Transaction, UnbalancedError, balance, post, top_up, transfer
from api.billing.tables import JournalTransaction, Posting
from api.billing.verify import check
from api.db import Database
from tests.db.ledger_world import MICRO, World

HISTORY = (
    "journal_transactions",
    "postings",
    "price_versions",
    "usage_series",
    "audit_entries",
    "allocation_events",
    "environment_events",
    "host_events",
)

_SERIES = (
    "host_id, boot_id, allocation_uid, generation, container_id, device_uuid, milli, first_sequence, last_sequence,"
    " step, cuts_ms"
)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_a_top_up_is_posted_once_per_key(world: World, database: Database) -> None:
    customer = world.customer()

    def pay(key: str) -> int:
        return database.transact(
            lambda session: top_up(session, customer_id=customer.id, amount_micro=5, actor="test", key=key)
        ).id

    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(pay, ["same"] * 8 + ["other"]))
    assert len(set(ids)) == 2
    assert world.balance(customer).balance_micro == 10
    with database.session() as session:
        assert check(session) == []


def test_an_unbalanced_transaction_is_refused_twice(world: World, database: Database) -> None:
    customer = world.customer()

    def ids() -> tuple[int, int]:
        accounts = database.transact(lambda session: customer_accounts(session, customer.id, "USD"))
        return accounts.funding, accounts.wallet

    funding, wallet = ids()
    with pytest.raises(UnbalancedError):
        database.transact(
            lambda session: post(
                session,
                Transaction(
                    customer_id=customer.id,
                    key="k",
                    kind=JournalKind.TOP_UP,
                    actor="test",
                    postings=[Entry(funding, -5), Entry(wallet, 4)],
                ),
            )
        )

    def behind_its_back() -> None:
        with database.session() as session, session.begin():
            row = JournalTransaction(customer_id=customer.id, key="k", kind="top_up", actor="test")
            session.add(row)
            session.flush()
            session.add(Posting(transaction_id=row.id, account_id=wallet, amount_micro=1))

    with pytest.raises(DBAPIError, match="not to zero"):
        behind_its_back()


def test_no_account_of_a_customer_goes_below_zero(world: World, database: Database) -> None:
    customer = world.customer(balance_micro=10)

    def overdraw() -> None:
        with database.session() as session, session.begin():
            accounts = customer_accounts(session, customer.id, "USD")
            transfer(
                session,
                customer_id=customer.id,
                key="k",
                kind=JournalKind.HOLD,
                actor="test",
                source=accounts.wallet,
                target=accounts.holds,
                amount_micro=11,
            )

    with pytest.raises(IntegrityError, match="never_negative"):
        overdraw()
    assert world.balance(customer).available_micro == 10


def test_history_can_not_be_changed(world: World, database: Database) -> None:
    _make_history(world, database)
    for table in HISTORY:
        with database.engine.begin() as connection:
            assert connection.scalar(text(f"select count(*) from {table}")), table
        for statement in ("delete from {}", "update {} set id = id", "truncate {} cascade"):
            with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
                connection.execute(text(statement.format(table)))


def _make_history(world: World, database: Database) -> None:
    customer, (host, gpus) = world.customer(balance_micro=MICRO), world.host(gpus=1)
    lease = world.start(customer, world.price(1000), gpus)
    world.pass_time(1000)
    world.deliver(host.id, world.window(lease, lease.starts_ms, lease.starts_ms + 1000))
    with database.session() as session, session.begin():
        record(session, actor="test", action="test", target="test")
        session.execute(
            text("insert into host_events (host_id, actor, kind) values (:host, 'test', 'test')"), {"host": host.id}
        )
        # Without its foreign keys, an event is enough to try to change it.
        session.execute(text("set local session_replication_role = replica"))
        session.execute(
            text("insert into environment_events (environment_id, actor, to_state) values (1, 'test', 'queued')")
        )


def test_the_check_finds_what_is_wrong(world: World, database: Database) -> None:
    _make_history(world, database)
    for damage, finding in (
        ("update accounts set balance_micro = balance_micro + 1 where kind = 'revenue'", "its postings sum to"),
        ("update usage_meters set charged_micro = charged_micro + 1", "which cost"),
        ("update usage_meters set proven_ms = proven_ms + 1", "its intervals sum to"),
        ("update holds set amount_micro = amount_micro - 1", "their holds sum to"),
        ("update usage_intervals set to_ms = to_ms - 1", "its intervals sum to"),
        ("update usage_sums set duration_ms = duration_ms + 1", "its postings then say"),
        ("delete from usage_sums", "its postings then say"),
        ("update usage_received set sequences = '{[2,9)}'", "sequence numbers received"),
        (f"insert into usage_series ({_SERIES}) select {_SERIES} from usage_series", "counts 2 times"),
    ):
        with database.session() as session:
            session.execute(text(damage))
            assert any(finding in found for found in check(session)), damage
            session.rollback()
            assert check(session) == []


def test_no_moment_counts_twice_whatever_the_code_does(world: World, database: Database) -> None:
    _make_history(world, database)
    with pytest.raises(IntegrityError, match="ex_usage_intervals_disjoint"), database.engine.begin() as connection:
        connection.execute(
            text(
                "insert into usage_intervals (meter_id, customer_id, from_ms, to_ms) "
                "select meter_id, customer_id, to_ms - 1, to_ms + 1 from usage_intervals"
            )
        )


def test_customers_share_no_account(world: World, database: Database) -> None:
    one, other = world.customer(balance_micro=3), world.customer(balance_micro=4)
    with database.session() as session:
        assert (balance(session, one.id).balance_micro, balance(session, other.id).balance_micro) == (3, 4)
        shared = select(Posting.account_id, JournalTransaction.customer_id).join(
            JournalTransaction, JournalTransaction.id == Posting.transaction_id
        )
        rows = list(session.execute(shared))
    assert {row.account_id for row in rows if row.customer_id == one.id}.isdisjoint(
        {row.account_id for row in rows if row.customer_id == other.id}
    )
