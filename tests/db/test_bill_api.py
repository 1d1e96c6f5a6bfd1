"""Bills over HTTP: each customer's own, checked with the key that everybody can have."""

import io
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.billing.chain import bill
from api.billing.chain.keys import public_keys, signer
from api.billing.chain.month import Month
from api.clock import utc_now
from api.db import Database
from api.settings import Settings
from api.tenants.tables import Customer
from remotegpu.bill import Verifier, read_keys
from tests.db.bill_world import BillWorld
from tests.db.conftest import Tenant
from tests.db.ledger_world import World

BILL, HEADS, KEYS = (f"/api/v1/{path}" for path in ("customer/billing/bill", "customer/billing/heads", "billing/keys"))
NOW = str(Month.of(utc_now()))


@pytest.fixture
def bills(database: Database, settings: Settings, tenant: Tenant) -> BillWorld:
    """The tenant has lived."""
    bills = BillWorld(World(database), settings)
    bills.world.top_up(tenant.customer, 10**9)
    bills.live(tenant.customer, seed=3, steps=4)
    return bills


def keys(client: TestClient) -> dict[str, bytes]:
    answer = client.get(KEYS)
    assert answer.status_code == 200, answer.text
    return read_keys("".join(key["public_key"] for key in answer.json()["keys"]).encode())


def test_a_customer_exports_a_bill_that_the_published_key_verifies(
    app_client: TestClient, tenant: Tenant, bills: BillWorld
) -> None:
    answer = app_client.get(BILL, params={"period": NOW}, headers=tenant.member.headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jsonl"
    found = Verifier(keys(app_client)).verify(io.BytesIO(answer.content))
    assert found.customer == str(tenant.customer.uid) and found.records > 3
    [head] = app_client.get(HEADS, headers=tenant.owner.headers).json()["items"]
    assert (head["head"]["sequence"], head["head"]["hash"]) == (found.sequence, found.hash)
    assert head["head"]["closed"] is False and head["head"]["period"] == NOW


def test_anothers_bill_has_nothing_of_it(app_client: TestClient, other_tenant: Tenant, bills: BillWorld) -> None:
    answer = app_client.get(BILL, params={"period": NOW}, headers=other_tenant.owner.headers)
    found = Verifier().verify(io.BytesIO(answer.content))
    assert (found.customer, found.lines) == (str(other_tenant.customer.uid), 4)


def test_earlier_months_were_empty_and_are_closed(app_client: TestClient, tenant: Tenant, bills: BillWorld) -> None:
    for period in ("1970-01", "2020-02"):
        answer = app_client.get(BILL, params={"period": period}, headers=tenant.owner.headers)
        found = Verifier(keys(app_client)).verify(io.BytesIO(answer.content))
        assert (found.period, found.closed, found.amount_micro) == (period, True, 0)


@pytest.mark.parametrize(
    "period", ["", "2026", "2026-13", "2026-00", "2026-1", "9999-01", "8999-12", "٢٠٢٦-11", "2026-11\n"]
)
def test_periods_that_there_are_not(app_client: TestClient, tenant: Tenant, period: str) -> None:
    assert app_client.get(BILL, params={"period": period}, headers=tenant.owner.headers).status_code == 422


def test_few_are_exported_at_once_and_who_leaves_makes_room(
    app: FastAPI, app_client: TestClient, tenant: Tenant, bills: BillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bill, "CHUNK_BYTES", 100)
    others = [Customer(name=f"other {number}") for number in range(bill.AT_ONCE)]
    bills.database.transact(lambda session: session.add_all(others))

    def status() -> int:
        return app_client.get(BILL, params={"period": NOW}, headers=tenant.owner.headers).status_code

    def read(customer: Customer) -> Iterator[bytes]:
        chunks: Iterator[bytes] = app.state.exports.open(bills.database, bills.prepare(customer))
        return chunks

    own = read(tenant.customer)
    assert status() == 429, "one of a customer's at a time"
    del own
    assert status() == 200
    reading = [read(customer) for customer in others]
    assert status() == 429
    del reading[0]
    assert status() == 200


def test_who_reads_too_slowly_gets_no_signature(
    tenant: Tenant, bills: BillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bill, "CHUNK_BYTES", 100)
    monkeypatch.setattr(bill, "LONGEST_S", -1.0)
    with pytest.raises(bill.TooSlowError):
        list(bill.stream(bills.database, bills.prepare(tenant.customer)))


def test_a_key_that_opens_no_more_is_followed_by_another(bills: BillWorld, tenant: Tenant, tmp_path: Any) -> None:
    def first_and_all(settings: Settings) -> tuple[str, list[str]]:
        return bills.database.transact(
            lambda session: (signer(session, settings).kid, [key.kid for key in public_keys(session, settings)])
        )

    old = bills.export(tenant.customer)
    before, _ = first_and_all(bills.settings)
    (tmp_path / "signing_key_secret").write_text("another")
    bills.settings = bills.settings.model_copy(update={"secrets_dir": tmp_path})
    after, published = first_and_all(bills.settings)
    assert published == [after, before] and after != before
    assert Verifier().verify(io.BytesIO(bills.export(tenant.customer))).key == after
    assert Verifier().verify(io.BytesIO(old)).key == before


def test_months_follow_each_other() -> None:
    assert [str(Month(2026, 11).next), str(Month(2026, 12).next)] == ["2026-12", "2027-01"]
    assert Month.of(Month(2026, 12).end) == Month(2027, 1)
    assert Month.of(Month(2026, 12).end - timedelta(microseconds=1)) == Month.parse("2026-12")
