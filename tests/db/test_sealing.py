"""Sealing: nothing is sealed twice or left out, whoever is killed or comes late; what is sealed stays as it is."""

import base64
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from api.billing.chain import sealing
from api.billing.chain.keys import signer
from api.billing.chain.month import Month
from api.billing.chain.sealer import Sealer
from api.billing.chain.sealing import seal, tail
from api.billing.chain.tables import UsageHead, UsageRecord
from api.clock import utc_now
from api.db import Database
from api.metering.tables import UsageMeter
from api.settings import Settings
from api.tenants.tables import Customer
from remotegpu.bill import BadLine, Verifier
from tests.db.bill_world import BillWorld, check, month_after
from tests.db.forging import Forger, canonical, contents_of
from tests.db.ledger_world import Lease, World


@pytest.fixture
def bills(database: Database, settings: Settings) -> BillWorld:
    return BillWorld(World(database), settings)


@pytest.fixture
def customer(bills: BillWorld) -> Customer:
    return bills.world.customer(balance_micro=10**9)


@pytest.fixture
def lease(bills: BillWorld, customer: Customer) -> Lease:
    """Two devices; nothing of them is proven yet."""
    _, gpus = bills.world.host(gpus=2)
    lease = bills.world.start(customer, bills.world.price(3_600_000), gpus, disconnect_s=600)
    bills.world.pass_time(600_000)
    return lease


def prove(bills: BillWorld, lease: Lease, *spans: tuple[int, int], gpu: int = 0) -> None:
    """Seconds after the start."""
    start = lease.starts_ms
    windows = [bills.world.window(lease, start + 1000 * a, start + 1000 * b, gpu=gpu) for a, b in spans]
    bills.world.deliver(lease.gpus[0].host_id, *windows)


def records(bills: BillWorld, customer: Customer, lease: Lease) -> list[tuple[int, int, int]]:
    """Of the first device: from, to, and proven with it, in seconds after the start."""
    query = (
        select(UsageRecord)
        .join(UsageMeter, UsageMeter.id == UsageRecord.meter_id)
        .where(UsageRecord.customer_id == customer.id, UsageMeter.gpu_id == lease.gpus[0].id)
        .order_by(UsageRecord.sequence)
    )
    with bills.database.session() as session:
        found = list(session.scalars(query))
    start = lease.starts_ms
    return [((row.from_ms - start) // 1000, (row.to_ms - start) // 1000, row.proven_ms // 1000) for row in found]


def test_what_is_newly_proven_is_appended_whatever_gap_it_fills(
    bills: BillWorld, customer: Customer, lease: Lease
) -> None:
    prove(bills, lease, (0, 10), (20, 30))
    bills.seal(customer)
    prove(bills, lease, (5, 22), (30, 31))
    bills.seal(customer)
    bills.seal(customer)
    assert records(bills, customer, lease) == [(0, 10, 10), (20, 30, 20), (10, 20, 30), (30, 31, 31)]
    assert check(bills.export(customer)).duration_ms == 31_000


def test_a_sealed_record_is_never_changed(bills: BillWorld, customer: Customer, lease: Lease) -> None:
    prove(bills, lease, (0, 10))
    bills.export(customer)
    for statement in (
        "update usage_records set to_ms = to_ms + 1",
        "delete from usage_records",
        "truncate usage_records",
        "update usage_heads set sequence = 0",
        "delete from bill_keys",
        "update sealed_meters set body = '{}'",
        "delete from sealed_meters",
    ):
        with pytest.raises(IntegrityError, match="append-only"), bills.database.engine.begin() as connection:
            connection.execute(text(statement))


def test_sealing_and_ingestion_do_not_wait_for_each_other(bills: BillWorld, customer: Customer, lease: Lease) -> None:
    prove(bills, lease, (0, 10))
    with bills.database.session() as sealing_now, ThreadPoolExecutor(1) as other:
        seal(sealing_now, customer.id)
        other.submit(prove, bills, lease, (10, 20)).result(timeout=20)
        sealing_now.commit()
    with bills.database.session() as ingesting, ThreadPoolExecutor(1) as other:
        ingesting.execute(text("update usage_meters set proven_ms = proven_ms"))
        ingesting.execute(text("update holds set amount_micro = amount_micro"))
        ingesting.execute(text("select from accounts for no key update"))
        other.submit(bills.seal, customer).result(timeout=20)
    assert records(bills, customer, lease) == [(0, 10, 10), (10, 20, 20)]


def test_killed_at_any_statement_it_leaves_all_or_nothing(
    bills: BillWorld, customer: Customer, lease: Lease, postgres: Any
) -> None:
    engine = bills.database.engine
    counted = 0
    deadly: int | None = None

    def kill(connection: Any) -> None:
        pid = connection.connection.driver_connection.info.backend_pid
        with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as admin:
            admin.execute("select pg_terminate_backend(%s, 10000)", [pid])

    def before(connection: Any, *_: Any) -> None:
        nonlocal counted
        counted += 1
        if counted == deadly:
            kill(connection)

    def committing(connection: Any) -> None:
        before(connection)

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "commit", committing)
    killed = 0
    for at in range(1, 40):
        deadly = None
        prove(bills, lease, (3 * at, 3 * at + 2), gpu=at % 2)
        end = _tail(bills, customer)
        counted, deadly = 0, at
        try:
            bills.seal(customer)
        except DBAPIError:
            killed += 1
            deadly = None
            assert _tail(bills, customer) == end
            continue
        deadly = None
        if counted < at:
            break
    else:
        pytest.fail("it never came to its end")
    event.remove(engine, "before_cursor_execute", before)
    event.remove(engine, "commit", committing)
    assert killed >= 6, "each of its statements, and the commit"
    assert check(bills.export(customer)).duration_ms == 2000 * (killed + 1)


def _tail(bills: BillWorld, customer: Customer) -> sealing.Link:
    with bills.database.session() as session:
        return tail(session, customer.id)


def test_several_sealers_at_once_seal_everything_once(bills: BillWorld, customer: Customer, lease: Lease) -> None:
    done = threading.Event()

    def sealer() -> None:
        while not done.is_set():
            bills.seal(customer)

    with ThreadPoolExecutor(3) as pool:
        sealers = [pool.submit(sealer) for _ in range(3)]
        try:
            for second in range(40):
                prove(bills, lease, (second, second + 1), gpu=second % 2)
        finally:
            done.set()
        for each in sealers:
            each.result(timeout=30)
    found = check(bills.export(customer))
    assert (found.duration_ms, found.unsealed_ms) == (40_000, 0)
    assert found.sequence == found.records


def _move_journal_to_last_month(bills: BillWorld) -> Month:
    """As if all of it had been posted then; sealed it was afterwards."""
    last = Month.of(Month.of(utc_now()).start - timedelta(days=1))
    with bills.database.engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(text("update journal_transactions set at = :at"), {"at": last.end - timedelta(hours=1)})
    return last


def test_what_comes_late_makes_the_chain_longer_and_leaves_a_closed_period_as_it_was(
    bills: BillWorld, customer: Customer, lease: Lease
) -> None:
    prove(bills, lease, (0, 10), (20, 30))
    period = _move_journal_to_last_month(bills)
    now = max(utc_now(), period.end + timedelta(minutes=15))
    closed = bills.export(customer, now=now, period=period)
    assert check(closed).closed and check(closed).duration_ms == 20_000
    prove(bills, lease, (10, 20))
    later = bills.export(customer, now=now)
    assert check(later).duration_ms == 10_000, "late usage is of the month in which it came"
    assert check(later).sequence == check(closed).sequence + 1
    again = bills.export(customer, now=now + timedelta(days=1), period=period)
    assert check(again).hash == check(closed).hash
    same = ("meter", "record", "window", "transaction", "totals", "head")
    assert _of(again, *same) == _of(closed, *same)
    together = Verifier()
    assert [together.verify(io.BytesIO(bill)).duration_ms for bill in (closed, later)] == [20_000, 10_000]
    heads = {body["head"]["sequence"]: body for body in (*_of(closed, "head"), *_of(later, "head"))}
    assert len(heads) == 2
    for sequence, body in heads.items():
        _assert_signed(bills, body)
        with bills.database.session() as session:
            record = session.get_one(UsageRecord, (customer.id, sequence))
        assert record.hash.hex() == body["head"]["hash"], "both are of the same chain"


@pytest.mark.parametrize(
    ("kind", "edit", "why"),
    [
        ("bill", lambda body: body["opening"].update(wallet=body["opening"]["wallet"] - 1), "opening balances"),
        ("bill", lambda body: body.update(from_ms=body["from_ms"] + 1), "does not follow a closed one"),
        ("bill", lambda body: body.update(customer="another"), "another customer's"),
        ("bill", lambda body: body["chain"].update(sequence=1, hash="1" * 64), "do not begin where"),
        ("meter", lambda body: body.update(posted_before_ms=body["posted_before_ms"] + 1), "where the bills before"),
        ("record", lambda body: body["record"].update(from_ms=body["record"]["from_ms"] + 1), "has proven"),
        ("record", lambda body: body["record"].update(sealed_ms=body["record"]["sealed_ms"] + 1), "head in the file"),
    ],
)
def test_a_bill_that_contradicts_the_one_of_the_month_before_does_not_hold(
    bills: BillWorld, customer: Customer, lease: Lease, kind: str, edit: Callable[[dict[str, Any]], None], why: str
) -> None:
    prove(bills, lease, (0, 10))
    period = _move_journal_to_last_month(bills)
    now = max(utc_now(), period.end + timedelta(minutes=15))
    closed = bills.export(customer, now=now, period=period)
    prove(bills, lease, (10, 20))
    later = bills.export(customer, now=now)
    forger = Forger(bills.database.transact(lambda session: signer(session, bills.settings)))
    changed = forger.change(later, lambda contents: edit(next(body for each, body in contents if each == kind)))
    together = Verifier()
    together.verify(io.BytesIO(closed))
    with pytest.raises(BadLine, match=why) as caught:
        together.verify(io.BytesIO(changed))
    assert contents_of(changed)[caught.value.number - 1][0] == kind


def test_a_bill_alone_of_a_month_in_between_is_not_taken_for_the_next(
    bills: BillWorld, customer: Customer, lease: Lease
) -> None:
    bill = bills.export(customer)
    together = Verifier()
    together.verify(io.BytesIO(bill))
    with pytest.raises(BadLine, match="does not follow a closed one"):
        together.verify(io.BytesIO(bill))


def _of(bill: bytes, *kinds: str) -> list[dict[str, Any]]:
    return [body for kind, body in contents_of(bill) if kind in kinds]


def _assert_signed(bills: BillWorld, body: dict[str, Any]) -> None:
    with bills.database.session() as session:
        public = session.scalar(text("select public_key from bill_keys where kid = :kid"), {"kid": body["head"]["key"]})
    message = b"remotegpu head 1\n" + canonical(body["head"])
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(body["signature"]), message)


def test_a_closed_period_for_which_more_was_posted_than_sealed_does_not_hold(
    bills: BillWorld, customer: Customer, lease: Lease
) -> None:
    prove(bills, lease, (0, 10))
    period = _move_journal_to_last_month(bills)
    now = max(utc_now(), period.end + timedelta(minutes=15))
    bills.export(customer, now=now, period=period)
    prove(bills, lease, (10, 20))
    _move_journal_to_last_month(bills)
    with pytest.raises(Exception, match="10000 ms were paid for that no record seals"):
        check(bills.export(customer, now=now, period=period))


def rounds(sealer: Sealer) -> int:
    """A whole round; answers in how many turns."""
    sealer.run_once()
    turns = 1
    while not sealer.resting:
        sealer.run_once()
        turns += 1
    return turns


def test_the_controller_seals_everybody_in_turns_and_closes_the_month(
    bills: BillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    customers = [bills.world.customer(balance_micro=10**9) for _ in range(3)]
    for customer in customers:
        _, gpus = bills.world.host(gpus=2)
        lease = bills.world.start(customer, bills.world.price(3_600_000), gpus)
        bills.world.pass_time(20_000)
        for gpu in range(2):
            prove(bills, lease, (0, 9), gpu=gpu)
    bills.world.customer()  # who has used nothing
    monkeypatch.setattr(sealing, "MAX_METERS", 1)
    monkeypatch.setattr("api.billing.chain.sealer._TURN_S", 0.0)
    now = utc_now()
    turns = rounds(Sealer(bills.database, bills.settings, clock=lambda: now))
    assert turns == 3 * len(customers), "one for each meter, and one to see that it was the last"
    for customer in customers:
        assert check(bills.export(customer)).duration_ms == 18_000
    assert unsealed(bills) == 0
    then = month_after(now)
    for _ in range(2):
        rounds(Sealer(bills.database, bills.settings, clock=lambda: then))
    closed = [(customer_id, period) for customer_id, period, is_closed in heads(bills) if is_closed]
    assert sorted(closed) == [(customer.id, str(Month.of(now))) for customer in customers]
    for customer in customers:
        assert check(bills.export(customer, now=then, period=Month.of(now))).closed


def test_what_was_proven_just_before_a_hold_was_closed_is_sealed(
    bills: BillWorld, customer: Customer, lease: Lease
) -> None:
    now = bills.world.now
    sealer = Sealer(bills.database, bills.settings, clock=lambda: now)
    rounds(sealer)
    prove(bills, lease, (0, 600))
    prove(bills, lease, (0, 600), gpu=1)
    bills.world.release(lease, ended_at_ms=lease.starts_ms + 600_000)
    sealer._next_round = 0.0  # a minute later
    rounds(sealer)
    assert unsealed(bills) == 0


def unsealed(bills: BillWorld) -> int:
    """Proven time that is in no record."""
    query = "select coalesce(sum(proven_ms), 0) - (select coalesce(sum(to_ms - from_ms), 0) from usage_records)"
    with bills.database.session() as session:
        found: int = session.execute(text(f"{query} from usage_meters")).scalar_one()
    return found


def heads(bills: BillWorld) -> list[tuple[int, str, bool]]:
    with bills.database.session() as session:
        return [(row.customer_id, row.period, row.closed) for row in session.scalars(select(UsageHead))]
