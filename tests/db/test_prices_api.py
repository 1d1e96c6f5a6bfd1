"""Prices over HTTP: who pays which, from the administrator's word to what is shown of a request that runs."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.audit.tables import AuditEntry
from api.billing.tables import Hold, HoldPrice
from api.clock import to_ms, utc_now
from api.db import Database
from tests.db.conftest import Person, Tenant
from tests.db.fleet import A100, DOLLAR, Fleet, activate, admit, decide

PRICES = "/api/v1/admin/prices"
GROUPS = "/api/v1/admin/capacity-groups"


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.host()
    return fleet


def add(client: TestClient, admin: Person, micro: int, **fields: Any) -> httpx.Response:
    unit = {} if "unit" in fields else {"gpu_model": "A100"}
    return client.post(PRICES, headers=admin.headers, json={"price_micro": micro, **unit, **fields})


def shown(client: TestClient, tenant: Tenant) -> int | None:
    (offer,) = client.get("/api/v1/customer/machines", headers=tenant.member.headers).json()["items"]
    assert offer["gpu_model"] == A100
    price: int | None = offer["price_micro_per_gpu_hour"]
    return price


def test_a_customers_price_is_theirs_alone(
    app_client: TestClient, admin: Person, tenant: Tenant, other_tenant: Tenant, fleet: Fleet
) -> None:
    made = add(app_client, admin, 3 * DOLLAR, customer=str(tenant.customer.uid))
    assert made.status_code == 201, made.text
    assert (made.json()["customer"], made.json()["currency"], made.json()["unit"]) == ("acme", "USD", "gpu_hour")
    assert (shown(app_client, tenant), shown(app_client, other_tenant)) == (3 * DOLLAR, None)
    add(app_client, admin, 5 * DOLLAR)
    assert (shown(app_client, tenant), shown(app_client, other_tenant)) == (3 * DOLLAR, 5 * DOLLAR)
    assert [entry.customer_id for entry in fleet.rows(AuditEntry) if entry.action == "price.create"] == [
        tenant.customer.id,
        None,
    ]


def test_what_is_refused(app_client: TestClient, admin: Person, tenant: Tenant) -> None:
    customer = str(tenant.customer.uid)
    for status, code, fields in (
        (422, "price_currency", {"customer": customer, "currency": "EUR"}),
        (422, "unknown_capacity_group", {"capacity_group": "none"}),
        (404, "not_found", {"customer": "00000000-0000-4000-8000-000000000000"}),
        (422, "validation", {"customer": customer, "capacity_group": "gold"}),
        (422, "validation", {"unit": "cpu_core_hour", "gpu_model": "A100"}),
        (422, "validation", {"unit": "gpu_hour"}),
        (422, "validation", {"unit": "cpu_core_hour", "preemptible_discount_permille": 1}),
        (422, "validation", {"reserved_discount_permille": 1001}),
        (422, "validation", {"kept_for_s": 3599}),
    ):
        refused = add(app_client, admin, 1, **fields)
        assert (refused.status_code, refused.json()["code"]) == (status, code), fields
    assert add(app_client, admin, 1, unit="volume_gib_month").status_code == 201


def test_what_runs_says_its_price_and_terms(
    app_client: TestClient, admin: Person, tenant: Tenant, fleet: Fleet
) -> None:
    """Preemptible in a capacity group with a price of its own; one beside it pays the list's."""
    add(app_client, admin, 2 * DOLLAR)
    group = {"name": "gold", "customer": str(tenant.customer.uid), "nominal_milli": 1000}
    assert app_client.post(GROUPS, headers=admin.headers, json=group).status_code == 201
    made = add(app_client, admin, DOLLAR, capacity_group="gold", preemptible_discount_permille=125, kept_for_s=86_400)
    assert (made.json()["customer_id"], made.json()["capacity_group"]) == (str(tenant.customer.uid), "gold")
    top_up = f"/api/v1/admin/customers/{tenant.customer.uid}/top-up"
    app_client.post(top_up, headers=admin.headers, json={"amount_micro": 10 * DOLLAR})
    owner = (tenant.customer, tenant.workspace, tenant.owner.user)
    asked = {"preemptible": True, "capacity_group": "gold"}
    special, plain = fleet.submit(owner, **asked), fleet.submit(owner)
    store = fleet.lead()
    for placement in decide(store):
        admit(store, placement)
    assert activate(store, special)
    listed = app_client.get("/api/v1/customer/allocations", headers=tenant.owner.headers).json()["items"]
    found = {item.pop("id"): item for item in listed}
    assert {uid: (item["price_micro_per_gpu_hour"], item["price_terms"]) for uid, item in found.items()} == {
        str(special.uid): (875_000, "preemptible"),
        str(plain.uid): (2 * DOLLAR, "on_demand"),
    }
    placed_at = datetime.fromisoformat(found[str(special.uid)]["placed_at"])
    kept_until = datetime.fromisoformat(found[str(special.uid)]["price_kept_until"])
    assert abs(kept_until - placed_at - timedelta(days=1)) < timedelta(milliseconds=2)
    assert found[str(plain.uid)]["price_kept_until"] is None
    assert sorted(hold.amount_micro for hold in fleet.rows(Hold)) == [875_000 // 6 + 1 + 1, DOLLAR // 3 + 1 + 1]


def test_the_price_of_now_is_shown_while_the_next_is_paid_for(
    app_client: TestClient, admin: Person, tenant: Tenant, fleet: Fleet, database: Database
) -> None:
    add(app_client, admin, 0)
    running = fleet.submit((tenant.customer, tenant.workspace, tenant.owner.user))
    store = fleet.lead()
    for placement in decide(store):
        admit(store, placement)

    def shown() -> tuple[int, str | None]:
        (item,) = app_client.get("/api/v1/customer/allocations", headers=tenant.owner.headers).json()["items"]
        assert item["id"] == str(running.uid)
        return item["price_micro_per_gpu_hour"], item["price_kept_until"]

    def follow(at_ms: int) -> None:
        """Its price goes on up to that moment, and another one follows."""
        with database.session() as session, session.begin():
            (hold,) = session.query(Hold)
            session.add(
                HoldPrice(
                    allocation_id=hold.allocation_id,
                    generation=hold.generation,
                    from_ms=hold.price_from_ms,
                    until_ms=at_ms,
                    price_version_id=hold.price_version_id,
                    terms=hold.terms,
                    price_micro_per_gpu_hour=5,
                )
            )
            hold.price_from_ms, hold.price_micro_per_gpu_hour = at_ms, 7

    now_ms = to_ms(utc_now())
    assert shown() == (0, None)
    follow(now_ms - 1)
    assert shown() == (7, None), "it has begun"
    follow(now_ms + 3_600_000)
    price, until = shown()
    assert until is not None
    assert (price, to_ms(datetime.fromisoformat(until))) == (5, now_ms + 3_600_000), "it has yet to begin"
