"""Allocations without GPUs: CPU, memory and a lease, no device, and nothing to pay."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from api.allocations.tables import Allocation
from api.billing.holds import extend_hold
from api.billing.tables import Hold, JournalTransaction
from api.billing.verify import check
from api.clock import from_ms, to_ms, utc_now
from api.db import Database
from api.machines.registration import register
from api.quotas.tables import Quota
from api.settings import Settings
from scheduler.host_protocol import HostFacts, LeaseEnd
from scheduler.ports import Admitted, Ended, WaitReason
from scheduler.states import AllocationState, EndReason
from scheduler.views import Part
from tests.db.conftest import Person, Tenant
from tests.db.environment_world import World
from tests.db.fleet import GIB, Fleet, activate, admit, decide, releasing
from tests.db.test_reservations import ask, code, made

NONE = {"gpus": 0, "gpu_models": []}


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return Fleet(database)


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return World.make(Fleet(database), settings)


def finish(fleet: Fleet, allocation: Allocation) -> None:
    fleet.end(allocation, EndReason.COMPLETED)
    store = fleet.lead()
    end = LeaseEnd(to_ms(utc_now()), exit_code=0, last_window=None)
    assert store.record([Ended(each.allocation_id, each.generation, (end,)) for each in releasing(store)]) == [True]


def test_it_is_placed_and_released_with_no_device_and_no_money(fleet: Fleet) -> None:
    """Nobody has set any price, and the wallet is empty."""
    host = fleet.host("bare", gpus=0)
    acme = fleet.customer(dollars=0)
    allocation = fleet.submit(acme, **NONE)
    store = fleet.lead()
    (placement,) = decide(store)
    assert placement.parts == (Part(host.id, ()),)
    admitted = admit(store, placement)
    assert [(share.devices, share.cpu_milli, share.memory_bytes) for share in admitted.shares] == [((), 4000, 16 * GIB)]
    assert [lease.devices for lease in admitted.leases] == [()]
    assert list(store.placing([allocation.id])) == [admitted], "after a crash it is the same"
    assert activate(store, allocation)
    row = fleet.allocation(allocation.id)
    assert (row.state, row.host_ids) == ("active", [host.id])
    (held,) = store.changes(complete=True).held
    assert held.parts == placement.parts
    assert fleet.open_device_rows() == [] and fleet.groups()[admitted.group_name].gpu_ids == []
    finish(fleet, allocation)
    assert fleet.allocation(allocation.id).state == "released"
    assert fleet.rows(Hold) == [] and fleet.rows(JournalTransaction) == []
    with fleet.database.session() as session:
        assert check(session) == []


def test_its_group_is_handed_on_and_gives_way(fleet: Fleet) -> None:
    host = fleet.host(gpus=1, cpu=6)
    fleet.price()
    acme = fleet.customer()
    first = fleet.submit(acme, **NONE)
    store = fleet.lead()
    admitted = admit(store, fleet.placement(first, host))
    activate(store, first)
    finish(fleet, first)
    second = fleet.submit(acme, **NONE)
    store = fleet.lead()
    (placement,) = decide(store)
    taken = admit(store, placement)
    assert (taken.group_name, taken.drop_groups) == (admitted.group_name, ())
    activate(store, second)
    finish(fleet, second)
    fleet.submit(acme)
    store = fleet.lead()
    (placement,) = decide(store)
    assert admit(store, placement).drop_groups == (admitted.group_name,), "Ray has not the CPU for both"


def test_the_quota_counts_its_cpu_and_no_gpu(fleet: Fleet) -> None:
    host = fleet.host()
    acme = fleet.customer()
    fleet.database.transact(lambda session: session.add(Quota(customer_id=acme[0].id, gpus=0, cpu_milli=6000)))
    first, second = fleet.submit(acme, **NONE), fleet.submit(acme, **NONE)
    answers = fleet.lead().admit([fleet.placement(first, host), fleet.placement(second, host)])
    assert isinstance(answers[0], Admitted)
    assert isinstance(answers[1], WaitReason) and answers[1].code == "quota"


def test_the_hosts_cpu_is_given_out_once(fleet: Fleet) -> None:
    host = fleet.host(cpu=6)
    acme = fleet.customer()
    placements = [fleet.placement(fleet.submit(acme, **NONE), host) for _ in range(2)]
    answers = fleet.lead().admit(placements)
    assert isinstance(answers[1], WaitReason) and "not enough CPU or memory" in answers[1].detail


def test_those_apart_share_no_host(fleet: Fleet) -> None:
    host, other = fleet.host("h1"), fleet.host("h2")
    acme = fleet.customer()
    store = fleet.lead()
    admit(store, fleet.placement(fleet.submit(acme, apart="set", **NONE), host))
    again = fleet.submit(acme, apart="set", **NONE)
    (refused,) = store.admit([fleet.placement(again, host)])
    assert isinstance(refused, WaitReason) and "another one of set" in refused.detail
    admit(store, fleet.placement(again, other))


@pytest.mark.parametrize("nodes", [1, 2])
def test_its_lease_is_renewed_without_money_and_ends_when_cut_off(world: World, nodes: int) -> None:
    fleet = world.fleet
    first, second = world.host("h1"), world.host("h2")
    poor = fleet.customer("poor", dollars=0)
    allocation = fleet.submit(poor, nodes=nodes, **NONE)
    world.place()
    held = fleet.allocation(allocation.id)
    host = first if held.host_id == first.id else second
    now = utc_now() + timedelta(seconds=100)
    (verdict,) = world.beat(host, held, now=now).verdicts
    assert not verdict.end
    assert abs(from_ms(verdict.run_until_ms) - (now + timedelta(seconds=600))) < timedelta(seconds=2)
    late = now + timedelta(seconds=601)
    with fleet.database.session() as session:
        row = session.get_one(Allocation, allocation.id)
        assert extend_hold(session, row, now=late) > late, "it is never unpaid"
    (verdict,) = world.beat(host, held, now=late).verdicts
    assert verdict.end
    ended = fleet.allocation(allocation.id)
    assert (ended.state, ended.end_reason) == (AllocationState.RELEASING, EndReason.EXPIRED)
    assert ended.end_detail == "the host was cut off for longer than the lease allows"


def test_a_host_that_forgot_it_or_booted_again_ends_it(world: World) -> None:
    fleet = world.fleet
    host = world.host("h1")
    allocations = [fleet.submit(world.owner, **NONE) for _ in range(2)]
    world.place()
    held = [fleet.allocation(each.id) for each in allocations]
    world.beat(host, held[1], now=utc_now() + timedelta(seconds=20))
    assert [fleet.allocation(each.id).end_reason for each in allocations] == [EndReason.HOST_LOST, None]
    facts = HostFacts("another boot", "h1", "10.0.0.1", "Debian", "6", 32, 256 * GIB, 1000 * GIB, "29", "watcher", True)
    fleet.database.transact(lambda session: register(session, world.settings, host_id=host.id, facts=facts))
    assert fleet.allocation(held[1].id).end_reason == EndReason.HOST_LOST


def test_a_gang_is_listed_by_each_of_its_hosts(app_client: TestClient, admin: Person, world: World) -> None:
    fleet = world.fleet
    hosts = [world.host("h1"), world.host("h2"), world.host("h3")]
    allocation = fleet.submit(world.owner, nodes=2, **NONE)
    store = fleet.lead()
    (placement,) = decide(store)
    admit(store, placement)
    activate(store, allocation)
    on = {part.host_id for part in placement.parts}
    for host in hosts:
        path = f"/api/v1/admin/allocations?host={host.uid}"
        items = app_client.get(path, headers=admin.headers).json()["items"]
        assert [item["devices"] for item in items] == ([[]] if host.id in on else [])
        machine = app_client.get(f"/api/v1/admin/machines/{host.uid}", headers=admin.headers).json()
        assert machine["allocation_status"] == ("partial" if host.id in on else "idle")
    (path,) = {f"/api/v1/admin/machines/{host.uid}" for host in hosts if host.id == placement.parts[0].host_id}
    for state in ("draining", "retired"):
        answer = app_client.patch(path, json={"admin_state": state}, headers=admin.headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "host_in_use")


def test_what_it_asks_of_gpus_is_refused(app_client: TestClient, tenant: Tenant, fleet: Fleet) -> None:
    fleet.host()
    asked = {"gpu_model": "A100", "gpu_models": ["A100"], "gpu_milli": 500, "gpu_memory_bytes": GIB}
    for field, value in asked.items():
        body = {"gpus": 0, field: value}
        answer = app_client.post("/api/v1/customer/allocations/plan", json=body, headers=tenant.owner.headers)
        assert answer.status_code == 422 and f"{field}: it asks for no GPU" in answer.text


def test_a_reservation_is_not_for_it_and_counts_on_none_of_its_cpu(
    app_client: TestClient, tenant: Tenant, fleet: Fleet
) -> None:
    host = fleet.host(cpu=16)
    fleet.price()
    allocation = fleet.submit(fleet.customer("busy"), cpu_milli=12_000, **NONE)
    admit(fleet.lead(), fleet.placement(allocation, host))
    assert code(ask(app_client, tenant.owner, cpu_milli=8000)) == (409, "reservation_taken")
    (reserved,) = made(ask(app_client, tenant.owner, cpu_milli=4000))
    body = {"gpus": 0, "reservation": reserved["id"]}
    told = app_client.post("/api/v1/customer/allocations/plan", json=body, headers=tenant.owner.headers).json()
    assert (told["when"], told["wait"]["code"]) == ("never", "reservation_mismatch")
