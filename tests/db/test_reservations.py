"""Advance reservations over HTTP: a calendar nothing can overlap, told when it is taken, all times or none."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.allocations.transitions import move
from api.audit.tables import AuditEntry
from api.db import Database
from api.errors import Unprocessable
from api.machines.tables import Host
from api.quotas.tables import Quota
from api.reservations.tables import Reservation, ReservationDevice
from scheduler.states import AdminState, AllocationState
from tests.db.conftest import Person, Tenant
from tests.db.fleet import H100, Fleet

PATH = "/api/v1/customer/reservations"
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).replace(minute=0, second=0, microsecond=0)


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.host("h1")
    fleet.price()
    return fleet


def ask(client: TestClient, person: Person, *, hours: float = 0, **fields: Any) -> httpx.Response:
    """For two GPUs, an hour, `hours` after this time tomorrow."""
    start = TOMORROW + timedelta(hours=hours)
    body = {"starts_at": start.isoformat(), "duration_s": 3600, "gpus": 2, **fields}
    return client.post(PATH, json=body, headers=person.headers)


def made(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 201, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def uuids(reservation: dict[str, Any]) -> list[str]:
    return [device["uuid"] for device in reservation["devices"]]


def test_devices_are_set_aside_until_the_calendar_is_full(
    app_client: TestClient, tenant: Tenant, other_tenant: Tenant, fleet: Fleet
) -> None:
    (first,) = made(ask(app_client, tenant.owner))
    assert (first["state"], first["owner"], first["workspace"], first["series"]) == (
        "booked", "acme-owner", "default", None
    )  # fmt: skip
    assert first["starts_at"] == TOMORROW.isoformat().replace("+00:00", "Z")
    # half of a host's CPUs, and of its memory less its own tenth
    assert (first["cpu_milli"], first["memory_bytes"]) == (16_000, 2 * (int(256 * 2**30 * 0.9) // 4))
    assert [device["host"] for device in first["devices"]] == ["h1", "h1"]
    (second,) = made(ask(app_client, other_tenant.owner, hours=0.5, duration_s=1800))
    assert set(uuids(first)).isdisjoint(uuids(second))
    taken = ask(app_client, other_tenant.owner, hours=0.5)
    assert code(taken) == (409, "reservation_taken")
    following = (TOMORROW + timedelta(hours=1)).isoformat()
    assert taken.json()["errors"][0]["next_start"] == following
    assert f"{TOMORROW + timedelta(hours=1):%H:%M} UTC" in taken.json()["detail"]
    made(ask(app_client, other_tenant.owner, starts_at=following))


def test_who_sees_and_who_cancels(
    app_client: TestClient, tenant: Tenant, other_tenant: Tenant, fleet: Fleet, database: Database
) -> None:
    (owners,) = made(ask(app_client, tenant.owner))
    (members,) = made(ask(app_client, tenant.member, hours=2))
    listed = app_client.get(PATH, headers=tenant.member.headers).json()["items"]
    assert listed == [members, owners]
    assert app_client.get(f"{PATH}/{owners['id']}", headers=tenant.member.headers).json() == owners
    assert app_client.get(PATH, headers=other_tenant.owner.headers).json()["items"] == []
    for method in ("GET", "DELETE"):
        stranger = app_client.request(method, f"{PATH}/{owners['id']}", headers=other_tenant.owner.headers)
        assert stranger.status_code == 404
    refused = app_client.delete(f"{PATH}/{owners['id']}", headers=tenant.member.headers)
    assert code(refused) == (403, "forbidden")
    for _ in range(2):
        assert app_client.delete(f"{PATH}/{members['id']}", headers=tenant.owner.headers).status_code == 204
    assert app_client.get(PATH, params={"state": "booked"}, headers=tenant.owner.headers).json()["items"] == [owners]
    made(ask(app_client, other_tenant.owner, hours=2, gpus=4))  # what was cancelled is free
    with database.session() as session:
        actions = session.scalars(select(AuditEntry.action).order_by(AuditEntry.id)).all()
    kept = [action for action in actions if action.startswith("reservation")]
    assert kept == ["reservation.create"] * 2 + ["reservation.cancel", "reservation.create"]


def test_a_series_is_booked_whole_or_not_at_all(
    app_client: TestClient, tenant: Tenant, other_tenant: Tenant, fleet: Fleet, database: Database
) -> None:
    made(ask(app_client, other_tenant.owner, hours=48, gpus=4))
    refused = ask(app_client, tenant.owner, every="day", count=5)
    assert code(refused) == (409, "reservation_taken")
    assert f"{TOMORROW + timedelta(hours=48):%Y-%m-%d %H:%M}" in refused.json()["detail"]
    with database.session() as session:
        assert len(session.scalars(select(Reservation)).all()) == 1
    days = made(ask(app_client, tenant.owner, every="day", count=2))
    assert [day["starts_at"][:10] for day in days] == [f"{TOMORROW + timedelta(days=n):%Y-%m-%d}" for n in range(2)]
    assert len({day["series"] for day in days}) == 1
    until = (TOMORROW + timedelta(days=21)).isoformat()
    weeks = made(ask(app_client, tenant.owner, hours=1, every="week", until=until))
    assert len(weeks) == 3
    cancelled = app_client.delete(f"{PATH}/{weeks[1]['id']}", params={"series": True}, headers=tenant.owner.headers)
    assert cancelled.status_code == 204
    left = app_client.get(PATH, params={"state": "booked", "over": False}, headers=tenant.owner.headers).json()["items"]
    assert [item["id"] for item in left] == [day["id"] for day in reversed(days)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"duration_s": None}, "validation"),
        ({"ends_at": TOMORROW.isoformat()}, "validation"),
        ({"every": "day"}, "validation"),
        ({"count": 3}, "validation"),
        ({"every": "month", "count": 3}, "validation"),
        ({"duration_s": 59}, "validation"),
        ({"starts_at": "2026-01-01T00:00:00"}, "validation"),
        ({"duration_s": None, "ends_at": (TOMORROW - timedelta(hours=1)).isoformat()}, "bad_period"),
        ({"starts_at": "2020-01-01T00:00:00Z"}, "bad_period"),
        ({"starts_at": (TOMORROW - timedelta(days=3)).isoformat()}, "bad_period"),
        ({"starts_at": "9999-12-31T23:00:00Z"}, "bad_period"),
        ({"starts_at": "0001-01-01T00:00:00Z"}, "bad_period"),
        ({"every": "week", "count": 60}, "bad_period"),
        ({"every": "day", "until": "9999-12-31T23:59:59Z"}, "bad_period"),
        ({"every": "day", "until": TOMORROW.isoformat()}, "bad_period"),
        ({"every": "day", "count": 2, "duration_s": 90_000}, "bad_period"),
        ({"gpus": 5}, "too_many_gpus"),
        ({"nodes": 2}, "too_many_nodes"),
        ({"gpu_models": ["B300"]}, "no_such_model"),
        ({"gpu_models": ["H100"]}, "no_price"),
        ({"selectors": ["region=eu"]}, "no_such_label"),
        ({"cpu_milli": 40_000}, "too_many_cpus"),
        ({"workspace": "none"}, "unknown_workspace"),
    ],
)
def test_what_can_not_be_reserved_says_why(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, fields: dict[str, Any], expected: str
) -> None:
    fleet.host("h2", model=H100, gpus=2)
    answer = ask(app_client, tenant.owner, **fields)
    assert code(answer) == (422, expected), answer.text


def test_the_quota_bounds_what_is_reserved_at_one_moment(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, database: Database
) -> None:
    database.transact(lambda session: session.add(Quota(customer_id=tenant.customer.id, gpus=2)))
    made(ask(app_client, tenant.owner))
    made(ask(app_client, tenant.owner, hours=1))
    assert code(ask(app_client, tenant.owner, hours=0.5, gpus=1)) == (422, "quota_exceeded")


def test_hosts_that_take_no_work_are_not_reserved(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, database: Database
) -> None:
    database.transact(lambda session: setattr(session.scalars(select(Host)).one(), "admin_state", AdminState.DRAINING))
    assert code(ask(app_client, tenant.owner)) == (409, "reservation_taken")


def test_a_gang_is_reserved_on_as_many_hosts(app_client: TestClient, tenant: Tenant, fleet: Fleet) -> None:
    fleet.host("h2")
    (gang,) = made(ask(app_client, tenant.owner, nodes=2, gpus=3))
    assert sorted({device["host"] for device in gang["devices"]}) == ["h1", "h2"]
    assert len(gang["devices"]) == 6


def hold(database: Database, allocation: Allocation, host: str) -> None:
    """As if it had been placed on all but the first device of a host."""

    def work(session: Session) -> None:
        row = session.get_one(Allocation, allocation.id, with_for_update=True)
        row.host_id = session.scalars(select(Host.id).where(Host.name == host)).one()
        row.host_ids = [row.host_id]
        move(session, row, AllocationState.PLACING, actor="test")
        session.execute(
            text(
                "insert into allocation_devices (allocation_id, gpu_id, generation, period)"
                " select :id, id, 1, tstzrange(now(), null) from gpus where uuid like :host and index > 0"
            ),
            {"id": allocation.id, "host": f"GPU-{host}-%"},
        )

    database.transact(work)


@pytest.mark.parametrize(
    ("options", "ends_in_time"),
    [
        ({}, False),
        ({"time_limit_s": 30 * 86_400}, False),
        ({"time_limit_s": 3600}, True),
        ({"preemptible": True}, True),
    ],
)
def test_what_need_not_have_left_by_then_can_not_be_reserved(
    app_client: TestClient,
    tenant: Tenant,
    fleet: Fleet,
    database: Database,
    options: dict[str, Any],
    ends_in_time: bool,
) -> None:
    hold(database, fleet.submit(fleet.customer("busy"), **options), "h1")
    answer = ask(app_client, tenant.owner)
    if ends_in_time:
        made(answer)
        return
    assert code(answer) == (409, "reservation_taken")
    assert ("errors" in answer.json()) is ("time_limit_s" in options), "the end of a limit is a time that would do"
    fleet.host("h2")
    assert uuids(made(ask(app_client, tenant.owner))[0]) == ["GPU-h2-0", "GPU-h2-1"]


def test_the_database_itself_refuses_an_overlap(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, database: Database
) -> None:
    made(ask(app_client, tenant.owner, gpus=4))
    with database.engine.begin() as connection:
        connection.execute(text("update reservations set state = 'cancelled'"))  # hidden from the search alone
    assert code(ask(app_client, tenant.owner, gpus=4)) == (409, "reservation_taken")
    with database.session() as session:
        assert len(session.scalars(select(ReservationDevice)).all()) == 4


def test_a_request_starts_in_a_reservation_of_its_customer_that_bears_it(
    app_client: TestClient, tenant: Tenant, other_tenant: Tenant, fleet: Fleet
) -> None:
    fleet.host("h2", gpus=8)
    days = made(ask(app_client, tenant.owner, every="day", count=2, gpu_models=["A100"], cpu_milli=8000))
    owner = (tenant.customer, tenant.workspace, tenant.member.user)
    rival = (other_tenant.customer, other_tenant.workspace, other_tenant.owner.user)

    def refusal(who: Any, **asked: Any) -> str:
        with pytest.raises(Unprocessable) as refused:
            fleet.submit(who, **asked)
        return refused.value.code

    assert refusal(rival, reservation=days[0]["id"]) == "unknown_reservation"
    assert refusal(owner, reservation=uuid4()) == "unknown_reservation"
    assert refusal(owner, reservation=days[0]["id"], gpus=3) == "reservation_mismatch"
    assert refusal(owner, reservation=days[0]["id"], cpu_milli=8001) == "reservation_mismatch"
    assert refusal(owner, reservation=days[0]["id"], gpu_models=["H100"]) == "reservation_mismatch"
    first = fleet.submit(owner, reservation=days[0]["id"], gpus=2)
    of_series = fleet.submit(owner, reservation=days[0]["series"])
    assert first.reservation_id == of_series.reservation_id is not None
    app_client.delete(f"{PATH}/{days[0]['id']}", headers=tenant.owner.headers)
    assert refusal(owner, reservation=days[0]["id"]) == "reservation_over"
    assert fleet.submit(owner, reservation=days[0]["series"]).reservation_id != first.reservation_id


def test_a_repeated_booking_is_one(app_client: TestClient, tenant: Tenant, fleet: Fleet) -> None:
    headers = {**tenant.owner.headers, "Idempotency-Key": "k"}
    body = {"starts_at": TOMORROW.isoformat(), "duration_s": 60, "gpus": 1}
    first, second = (app_client.post(PATH, json=body, headers=headers) for _ in range(2))
    assert made(first) == made(second)
    assert len(app_client.get(PATH, headers=tenant.owner.headers).json()["items"]) == 1
