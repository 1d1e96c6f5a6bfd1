"""Quotas at submission, and over HTTP."""

import pytest
from fastapi.testclient import TestClient

from api.db import Database
from api.errors import Unprocessable
from api.quotas.service import check_submission, effective_limits, held_by
from api.quotas.tables import Quota
from api.tenants.tables import Customer, Setting
from scheduler.ports import Admitted, WaitReason
from scheduler.quota import Limits, Resources
from tests.db.conftest import Person, Tenant
from tests.db.fleet import Fleet
from tests.db.ledger_world import GIB, MICRO, World


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def _code(database: Database, customer: Customer, *, gpus: int = 1, cpu_milli: int = 1, memory_bytes: int = 1) -> str:
    with pytest.raises(Unprocessable) as caught, database.session() as session, session.begin():
        check_submission(session, customer.id, gpus=gpus, cpu_milli=cpu_milli, memory_bytes=memory_bytes)
    return caught.value.code


def test_own_limits_stand_before_the_defaults(world: World, database: Database) -> None:
    customer = world.customer()
    with database.session() as session, session.begin():
        assert effective_limits(session, customer.id) == Limits()
        session.add(Setting(key="default_quota", value={"gpus": 8, "memory_bytes": GIB, "queued": None}))
        session.flush()
        assert effective_limits(session, customer.id) == Limits(gpus=8, memory_bytes=GIB, queued=100)
        session.add(Quota(customer_id=customer.id, gpus=0, queued=2))
        session.flush()
        assert effective_limits(session, customer.id) == Limits(gpus=0, memory_bytes=GIB, queued=2)


def test_what_could_never_run_is_refused(world: World, database: Database) -> None:
    customer = world.customer()
    with database.session() as session, session.begin():
        session.add(Quota(customer_id=customer.id, gpus=2, cpu_milli=2000, memory_bytes=GIB))
    with database.session() as session, session.begin():
        check_submission(session, customer.id, gpus=2, cpu_milli=2000, memory_bytes=GIB)
    assert _code(database, customer, gpus=3) == "quota_exceeded"
    assert _code(database, customer, cpu_milli=2001) == "quota_exceeded"
    assert _code(database, customer, memory_bytes=GIB + 1) == "quota_exceeded"


def test_the_queue_has_an_end(world: World, database: Database) -> None:
    customer = world.customer()
    with database.session() as session, session.begin():
        session.add(Quota(customer_id=customer.id, queued=2))
    world.queue(customer, gpus=1), world.queue(customer, gpus=1)
    assert _code(database, customer) == "queue_limit"


def test_what_is_held(world: World, database: Database) -> None:
    """Waiting holds nothing; placing and running do, releasing too, released does not."""
    customer, (_, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=3)
    price = world.price(1000)
    world.queue(customer, gpus=1)
    assert world.place(world.queue(customer, gpus=1), price, gpus[:1], active=False)
    world.start(customer, price, gpus[1:2])
    ended = world.start(customer, price, gpus[2:])
    with database.session() as session:
        assert held_by(session, [customer.id]) == {customer.id: Resources(3, 3000, 3 * GIB, allocations=3)}
    world.release(ended, ended_at_ms=world.now_ms)
    with database.session() as session:
        assert held_by(session, [customer.id]) == {customer.id: Resources(2, 2000, 2 * GIB, allocations=2)}


def test_so_many_run_at_once(database: Database) -> None:
    fleet = Fleet(database)
    host, acme = fleet.host(), fleet.customer()
    fleet.price()
    fleet.database.transact(lambda session: session.add(Quota(customer_id=acme[0].id, allocations=2)))
    store = fleet.lead()
    placements = [fleet.placement(fleet.submit(acme), host, index) for index in range(3)]
    *admitted, refused = store.admit(placements)
    assert all(isinstance(answer, Admitted) for answer in admitted)
    assert isinstance(refused, WaitReason) and refused.code == "quota"
    assert "2 allocations at once" in refused.detail


def test_over_http(app_client: TestClient, admin: Person, tenant: Tenant) -> None:
    path = f"/api/v1/admin/customers/{tenant.customer.uid}/quota"
    assert app_client.get(path, headers=admin.headers).json()["effective"]["queued"] == 100
    changed = app_client.put(path, headers=admin.headers, json={"gpus": 4})
    assert changed.status_code == 200
    effective = {"gpus": 4, "cpu_milli": None, "memory_bytes": None, "allocations": None, "queued": 100}
    assert changed.json()["effective"] == effective
    assert app_client.put(path, headers=admin.headers, json={"gpus": -1}).status_code == 422
    assert app_client.put(path, headers=admin.headers, json={"cpu_milli": 2**70}).status_code == 422
    assert app_client.get(path, headers=tenant.owner.headers).status_code == 403
    nobody = "/api/v1/admin/customers/0192d1b0-0000-7000-8000-000000000000/quota"
    assert app_client.put(nobody, headers=admin.headers, json={}).status_code == 404
