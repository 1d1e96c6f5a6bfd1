"""Billing over HTTP: what a customer reads is what the journal says, and only their own."""

from datetime import datetime, timedelta
from itertools import combinations

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.audit.tables import AuditEntry
from api.billing import statement
from api.billing.statement import Period
from api.clock import utc_now
from api.db import Database
from tests.db.conftest import Person, Tenant
from tests.db.ledger_world import MICRO, Lease, World

BILLING = "/api/v1/customer/billing"


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def lease(world: World, tenant: Tenant) -> Lease:
    """Still running: 3 s proven in two pieces on a device at a third of a unit a millisecond."""
    world.top_up(tenant.customer, MICRO)
    host, gpus = world.host(gpus=1)
    lease = world.start(tenant.customer, world.price(1_200_000), gpus)
    world.pass_time(30_000)
    start = lease.starts_ms
    world.deliver(host.id, world.window(lease, start, start + 1000), world.window(lease, start + 5000, start + 7000))
    return lease


def test_statement_balance_and_journal_agree(app_client: TestClient, tenant: Tenant, lease: Lease) -> None:
    def read(path: str) -> dict[str, object]:
        answer = app_client.get(f"{BILLING}/{path}", headers=tenant.member.headers)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found

    balance, statement = read("balance"), read("statement")
    assert balance["balance_micro"] == MICRO - 1000
    assert balance["available_micro"] == MICRO - 40_001
    assert statement["totals"] == {
        "opening_balance_micro": 0,
        "top_ups_micro": MICRO,
        "refunds_micro": 0,
        "transfers_micro": 0,
        "adjustments_micro": 0,
        "promotions_micro": 0,
        "amount_micro": 1000,
        "duration_ms": 3000,
        "closing_balance_micro": MICRO - 1000,
    }
    [line] = statement["lines"]  # type: ignore[misc]
    assert line["allocation_id"] == lease.uid
    assert (line["duration_ms"], line["amount_micro"], line["gpu_model"]) == (3000, 1000, "NVIDIA A100-SXM4-80GB")
    usage = read("usage")["items"]
    assert isinstance(usage, list)
    assert [(each["duration_ms"], each["amount_micro"]) for each in usage] == [(2000, 667), (1000, 333)]
    journal = read("journal")["items"]
    assert isinstance(journal, list)
    assert [each["kind"] for each in journal] == ["usage", "hold", "top_up"]
    assert all(sum(posting["amount_micro"] for posting in each["postings"]) == 0 for each in journal)


def test_periods_meet(app_client: TestClient, tenant: Tenant, lease: Lease) -> None:
    """A period ends where the next begins, and its closing balance is the next one's opening balance."""
    moment = utc_now() - timedelta(days=1)

    def totals(**period: str) -> dict[str, int]:
        answer = app_client.get(f"{BILLING}/statement", params=period, headers=tenant.owner.headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, int] = answer.json()["totals"]
        return found

    early = totals(**{"from": (moment - timedelta(days=9)).isoformat(), "to": moment.isoformat()})
    late = totals(**{"from": moment.isoformat()})
    assert early["closing_balance_micro"] == late["opening_balance_micro"] == 0
    assert early["amount_micro"] == 0
    assert late["amount_micro"] == 1000


def test_periods_that_cut_hours(world: World, database: Database) -> None:
    """What a statement says of any period is the sum of the postings in it, wherever its ends are."""
    customer, (host, gpus) = world.customer(balance_micro=100 * MICRO), world.host(gpus=2)
    lease = world.start(customer, world.price(1_200_000), gpus)
    world.pass_time(60_000)
    for number in range(10):
        start = lease.starts_ms + 5000 * number
        world.deliver(host.id, *(world.window(lease, start, start + 700 + number, gpu=gpu) for gpu in (0, 1)))
    hours = _spread_over_hours(database, minutes=23)
    ends = [hours + timedelta(minutes=minutes) for minutes in (-300, -37, 0, 22, 23, 46, 60, 90, 120, 185, 230, 600)]
    found = set()
    for start, end in combinations(ends, 2):
        with database.session() as session:
            totals = statement.totals(session, customer.id, Period(start, end))
            lines, _ = statement.lines(session, customer.id, Period(start, end), cursor=None, limit=200)
            posted = session.execute(text(_POSTED), {"start": start, "end": end, "customer": customer.id}).one()
        assert (totals.usage_micro, totals.duration_ms) == tuple(posted)
        assert (sum(line.amount_micro for line in lines), sum(line.duration_ms for line in lines)) == tuple(posted)
        found.add(posted.ms)
    assert len(found) > 9


_POSTED = """
select coalesce(-sum(amount_micro), 0)::bigint micro, coalesce(sum(duration_ms), 0)::bigint ms
from postings p join journal_transactions t on t.id = p.transaction_id
where meter_id is not null and at >= :start and at < :end and customer_id = :customer
"""


def _spread_over_hours(database: Database, *, minutes: int) -> datetime:
    """Post what is there again, so many minutes apart from a full hour on, which this answers."""
    first = utc_now().replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
    with database.engine.begin() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(text("delete from usage_sums"))
        connection.execute(text("create temporary table again on commit drop as select * from postings"))
        connection.execute(text("delete from postings"))
        moved = "update journal_transactions t set at = :first + n * :step from (select id, row_number() over"
        moved += " (order by id) - 1 as n from journal_transactions where kind = 'usage') u where u.id = t.id"
        connection.execute(text(moved), {"first": first, "step": timedelta(minutes=minutes)})
        connection.execute(text("set local session_replication_role = origin"))
        connection.execute(text("insert into postings select * from again"))
    return first


def test_pages(app_client: TestClient, tenant: Tenant, lease: Lease) -> None:
    for path in ("usage", "journal"):
        first = app_client.get(f"{BILLING}/{path}", params={"limit": 1}, headers=tenant.owner.headers).json()
        params = {"limit": 1, "cursor": first["next_cursor"]}
        second = app_client.get(f"{BILLING}/{path}", params=params, headers=tenant.owner.headers).json()
        assert first["items"] != second["items"]


def test_another_customer_sees_nothing(app_client: TestClient, other_tenant: Tenant, lease: Lease) -> None:
    headers = other_tenant.owner.headers
    assert app_client.get(f"{BILLING}/usage", headers=headers).json()["items"] == []
    assert app_client.get(f"{BILLING}/journal", headers=headers).json()["items"] == []
    assert app_client.get(f"{BILLING}/statement", headers=headers).json()["lines"] == []
    assert app_client.get(f"{BILLING}/balance", headers=headers).json()["balance_micro"] == 0


@pytest.mark.parametrize(
    "params",
    [
        {"from": "yesterday"},
        {"from": "2026-01-01T00:00:00"},
        {"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        {"from": "0001-01-01T00:00:00Z"},
        {"to": "9999-12-31T23:59:59Z"},
        {"limit": "0"},
    ],
)
def test_periods_that_make_no_sense(app_client: TestClient, tenant: Tenant, params: dict[str, str]) -> None:
    answer = app_client.get(f"{BILLING}/statement", params=params, headers=tenant.owner.headers)
    assert answer.status_code == 422, answer.text


def test_topping_up(app_client: TestClient, admin: Person, tenant: Tenant, database: Database) -> None:
    path = f"/api/v1/admin/customers/{tenant.customer.uid}/top-up"
    headers = {**admin.headers, "Idempotency-Key": "bank-transfer-1"}
    first = app_client.post(path, headers=headers, json={"amount_micro": 5 * MICRO, "note": "welcome"})
    again = app_client.post(path, headers=headers, json={"amount_micro": 5 * MICRO, "note": "welcome"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    balance = app_client.get(path.replace("top-up", "balance"), headers=admin.headers).json()
    assert balance["balance_micro"] == 5 * MICRO
    with database.session() as session:
        actions = [row.action for row in session.query(AuditEntry)]
    assert actions.count("customer.top_up") == 1
    for amount in (0, -1, 10**18, 1.5, "much"):
        assert app_client.post(path, headers=admin.headers, json={"amount_micro": amount}).status_code == 422
    nul = {"amount_micro": 1, "note": "a\0b"}
    assert app_client.post(path, headers=admin.headers, json=nul).status_code == 422
    assert app_client.post(path, headers=tenant.owner.headers, json={"amount_micro": 1}).status_code == 403


def test_prices(app_client: TestClient, admin: Person) -> None:
    body = {"gpu_model": "A100-80GB", "price_micro": 2_500_000}
    made = app_client.post("/api/v1/admin/prices", headers=admin.headers, json=body)
    assert made.status_code == 201, made.text
    listed = app_client.get("/api/v1/admin/prices", headers=admin.headers).json()["items"]
    assert listed == [made.json()]
    for wrong in (
        {"gpu_model": ""},
        {"price_micro": -1},
        {"currency": "dollars"},
        {"effective_from": "9999-12-31T23:59:59Z"},
    ):
        answer = app_client.post("/api/v1/admin/prices", headers=admin.headers, json={**body, **wrong})
        assert answer.status_code == 422, answer.text


def test_the_life_that_the_explanation_tells(world: World, database: Database) -> None:
    """The figures of docs/explanation/ledger.md, posting by posting."""
    customer, (host, gpus) = world.customer(balance_micro=MICRO), world.host(gpus=1)
    lease = world.place(world.queue(customer, gpus=1), world.price(3_600_000), gpus, limits=1)
    assert lease is not None

    def at(milliseconds: int) -> None:
        world.pass_time(lease.starts_ms + milliseconds - world.now_ms)

    def report(*pieces: tuple[int, int]) -> None:
        start = lease.starts_ms
        world.deliver(host.id, *(world.window(lease, start + begin, start + end) for begin, end in pieces))

    at(4000)
    world.renew(lease)
    at(9000)
    report((5000, 9000))
    at(11_000)
    report((10_000, 11_000))
    at(12_000)
    report((9000, 10_000))
    report((9000, 10_000))
    at(40_000)
    report((11_000, 40_000))
    at(40_500)
    last = world.window(lease, lease.starts_ms + 40_000, lease.starts_ms + 40_400)
    world.release(lease, ended_at_ms=world.now_ms, last=last)
    at(41_000)
    world.deliver(host.id, last)
    with database.session() as session:
        rows, _ = statement.journal(session, customer.id, cursor=None, limit=200)
    moved = [(row.kind, max(posting["amount_micro"] for posting in row.postings)) for row in reversed(rows)]
    assert moved == [
        ("top_up", 1_000_000),
        ("hold", 60_001),
        ("hold", 64_000),
        ("usage", 4000),
        ("usage", 1000),
        ("usage", 1000),
        ("usage", 29_000),
        ("hold_release", 83_500),
        ("usage", 400),
        ("hold_release", 5101),
    ]
    assert world.balance(customer).available_micro == 964_600
