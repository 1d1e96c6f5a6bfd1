"""Gangs: one allocation on several hosts, which starts, is renewed and ends as one."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.allocations.store import PostgresStore
from api.allocations.tables import Allocation
from api.billing.journal import balance
from api.billing.tables import Hold
from api.clock import to_ms, utc_now
from api.db import Database
from api.machines.liveness import sweep
from api.machines.tables import Host
from api.metering.service import ingest
from api.quotas.limits import limits_of
from api.quotas.usage import load_use
from api.settings import Settings
from scheduler.host_protocol import LeaseEnd, UsageBatch, UsageWindow, WindowId
from scheduler.ports import Admitted, Dropped, Ended, Placed, Placement
from scheduler.quota import Level, Resources, Scope
from scheduler.states import EndReason
from tests.db.conftest import Person
from tests.db.environment_world import World
from tests.db.fleet import DOLLAR, GIB, Fleet, admit, decide, refusal, releasing


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return Fleet(database)


@pytest.fixture
def world(fleet: Fleet, settings: Settings) -> World:
    return World.make(fleet, settings)


@pytest.fixture
def hosts(world: World) -> list[Host]:
    return [world.host(name) for name in ("h1", "h2", "h3")]


def gang(world: World, *, gpus: int = 2, **asked: object) -> Allocation:
    return world.fleet.submit(world.owner, nodes=2, gpus=gpus, **asked)


def place(world: World, allocation: Allocation, *hosts: Host, store: PostgresStore) -> Admitted:
    parts = tuple(world.fleet.part(host, *range(allocation.gpus)) for host in hosts)
    admitted = admit(store, Placement(allocation.id, parts))
    assert store.record([Placed(allocation.id, admitted.generation)]) == [True]
    return admitted


def test_each_host_gets_its_part_in_the_order_of_ranks(world: World, hosts: list[Host]) -> None:
    store = world.fleet.lead()
    allocation = gang(world)
    first, _, third = hosts
    parts = (world.fleet.part(third, 0, 1), world.fleet.part(first, 2, 3))
    admitted = admit(store, Placement(allocation.id, parts))
    assert [share.host_uid for share in admitted.shares] == [str(third.uid), str(first.uid)]
    assert [[device.uuid for device in lease.devices] for lease in admitted.leases] == [
        ["GPU-h3-0", "GPU-h3-1"],
        ["GPU-h1-2", "GPU-h1-3"],
    ]
    assert [lease.labels["remotegpu.host"] for lease in admitted.leases] == [str(third.uid), str(first.uid)]
    assert store.placing([allocation.id]) == [admitted]
    row = world.fleet.allocation(allocation.id)
    assert (row.host_id, row.host_ids) == (third.id, [third.id, first.id])
    (held,) = store.changes().held
    assert held.parts == parts


def test_it_counts_on_all_its_hosts(world: World, hosts: list[Host]) -> None:
    customer = world.owner[0]
    allocation = gang(world, gpus=4)
    place(world, allocation, *hosts[:2], store=world.fleet.lead())
    with world.fleet.database.session() as session:
        limits = {customer.id: limits_of(session, customer.id)}
        held = load_use(session, limits, now=utc_now(), everything=True).held
        asked = Resources(8, 8000, 32 * GIB, allocations=1, tasks=allocation.kind == "task")
        assert held[Scope(Level.CUSTOMER, customer.id)] == asked
        assert balance(session, customer.id).held_micro == 8 * 2 * DOLLAR * 600 // 3600 + 8 + 1
    full = refusal(world.fleet.lead(), world.fleet.placement(world.fleet.submit(world.owner), hosts[1], 0))
    assert full.code == "no_capacity"


@pytest.mark.parametrize("wrong", ["too few", "twice the same", "no room on the second"])
def test_it_starts_on_all_its_hosts_or_none(world: World, hosts: list[Host], wrong: str) -> None:
    store = world.fleet.lead()
    allocation = gang(world, cpu_milli=20_000)
    first, second = world.fleet.part(hosts[0], 0, 1), world.fleet.part(hosts[1], 0, 1)
    parts = {"too few": (first,), "twice the same": (first, first), "no room on the second": (first, second)}[wrong]
    if wrong == "no room on the second":
        other = world.fleet.submit(world.owner, cpu_milli=20_000)
        admit(store, world.fleet.placement(other, hosts[1], 3))
    before = len(world.fleet.open_device_rows())
    assert refusal(store, Placement(allocation.id, parts)).code == "no_capacity"
    assert len(world.fleet.open_device_rows()) == before
    assert world.fleet.allocation(allocation.id).state == "queued"


def test_it_starts_within_its_level_or_nowhere(world: World, hosts: list[Host]) -> None:
    for host, rack in zip(hosts, ("r1", "r1", "r2"), strict=True):
        _label(world, host, rack=rack)
    store = world.fleet.lead()
    allocation = gang(world, within="rack")
    one, two, three = (world.fleet.part(host, 0, 1) for host in hosts)
    assert "share a rack" in refusal(store, Placement(allocation.id, (one, three))).detail
    for host in hosts:
        _label(world, host)
    assert "share a rack" in refusal(store, Placement(allocation.id, (one, two))).detail, "none has a rack"
    for host in hosts:
        _label(world, host, rack="r3")
    admit(store, Placement(allocation.id, (one, three)))


def _label(world: World, host: Host, **labels: str) -> None:
    query = update(Host).where(Host.id == host.id).values(labels=labels)
    world.fleet.database.transact(lambda session: session.execute(query))


def test_its_group_is_not_handed_on(world: World, hosts: list[Host]) -> None:
    store = world.fleet.lead()
    allocation = gang(world)
    admitted = place(world, allocation, *hosts[:2], store=store)
    world.fleet.end(allocation, EndReason.COMPLETED)
    (ending,) = releasing(store)
    assert ending.host_uids == (str(hosts[0].uid), str(hosts[1].uid))
    ends = tuple(LeaseEnd(to_ms(utc_now()), exit_code=0, last_window=None) for _ in range(2))
    assert store.record([Ended(allocation.id, 1, ends)]) == [True]
    assert store.groups_to_drop() == [admitted.group_name]
    following = world.fleet.submit(world.owner)
    taken = admit(store, world.fleet.placement(following, hosts[1], 0))
    assert taken.drop_groups == (admitted.group_name,), "it may hold resources of either host in Ray"
    assert store.record([Dropped(admitted.group_name)]) == [True]


def test_it_makes_idle_groups_give_way_on_each_host(world: World, hosts: list[Host]) -> None:
    store = world.fleet.lead()
    names = []
    for host in hosts[:2]:
        allocation = world.fleet.submit(world.owner)
        names.append(admit(store, world.fleet.placement(allocation, host, 0)).group_name)
        store.record([Placed(allocation.id, 1)])
        world.fleet.end(allocation, EndReason.COMPLETED)
        store.record([Ended(allocation.id, 1, (LeaseEnd(to_ms(utc_now()), 0, None),))])
    assert [group.name for group in store.changes().idle_groups or ()] == names
    allocation = gang(world)
    parts = tuple(world.fleet.part(host, 0, 1) for host in hosts[:2])
    assert admit(store, Placement(allocation.id, parts)).drop_groups == tuple(sorted(names))


def test_every_host_renews_it_and_a_silent_one_lets_it_run_out(world: World, hosts: list[Host]) -> None:
    allocation = gang(world)
    place(world, allocation, *hosts[:2], store=world.fleet.lead())
    start = utc_now() + timedelta(seconds=40)
    for number, host in enumerate(hosts[:2]):
        now = start + timedelta(seconds=40 * number)
        (verdict,) = world.beat(host, world.fleet.allocation(allocation.id), now=now).verdicts
        assert (verdict.end, verdict.run_until_ms) == (False, to_ms(now + timedelta(seconds=600)))
    silent = start + timedelta(seconds=100)
    world.beat(hosts[0], world.fleet.allocation(allocation.id), now=silent)
    sweep(world.fleet.database, world.settings, ray_alive={str(host.uid): "node" for host in hosts}, now=silent)
    assert world.host_row(hosts[1]).device_status == "unreachable"
    at = world.fleet.allocation(allocation.id).run_until
    assert at is not None
    later = silent + timedelta(seconds=5)
    (verdict,) = world.beat(hosts[0], world.fleet.allocation(allocation.id), now=later).verdicts
    assert (verdict.end, verdict.run_until_ms) == (False, to_ms(at)), "no host is told more than the silent one"
    lost = at + timedelta(seconds=world.settings.lost_margin_s + 1)
    world.beat(hosts[0], now=lost)
    sweep(world.fleet.database, world.settings, ray_alive={str(host.uid): "node" for host in hosts}, now=lost)
    assert world.host_row(hosts[1]).device_status == "lost"
    assert world.fleet.allocation(allocation.id).end_reason in ("host_lost", "expired")
    (ending,) = releasing(world.fleet.lead())
    assert ending.host_uids == (str(hosts[0].uid),), "the lost one need not confirm"


def hold_is_open(world: World, allocation: Allocation) -> bool:
    with world.fleet.database.session() as session:
        return session.get_one(Hold, (allocation.id, 1)).closed_at is None


@pytest.mark.parametrize("early", [0, 1])
def test_its_hold_waits_for_the_last_windows_of_all_hosts(world: World, hosts: list[Host], early: int) -> None:
    """Those that came before the end is recorded count as well as those that come later."""
    store = world.fleet.lead()
    allocation = gang(world, gpus=1)
    place(world, allocation, *hosts[:2], store=store)
    world.fleet.end(allocation, EndReason.COMPLETED)
    end = to_ms(utc_now())

    def deliver(host: Host) -> None:
        window = UsageWindow(
            f"boot-of-{host.name}", 7, str(allocation.uid), 1, "c", f"GPU-{host.name}-0", 1000, end - 2, end - 1
        )
        ingest(world.fleet.database, host.id, UsageBatch((window,)))

    for host in hosts[:early]:
        deliver(host)
    ends = tuple(LeaseEnd(end, 0, WindowId(f"boot-of-{host.name}", 7)) for host in hosts[:2])
    assert store.record([Ended(allocation.id, 1, ends)]) == [True]
    for host in hosts[early:2]:
        assert hold_is_open(world, allocation)
        deliver(host)
    assert not hold_is_open(world, allocation)


def test_the_word_of_one_host_does_not_end_the_proof_of_all(world: World, hosts: list[Host]) -> None:
    store = world.fleet.lead()
    allocation = gang(world)
    place(world, allocation, *hosts[:2], store=store)
    world.fleet.end(allocation, EndReason.HOST_LOST)
    assert store.record([Ended(allocation.id, 1, (LeaseEnd(to_ms(utc_now()), 0, None),))]) == [True]
    assert hold_is_open(world, allocation), "the lost one's usage may come with its return"


def test_the_engine_places_it_and_each_machine_shows_its_part(
    world: World, hosts: list[Host], app_client: TestClient, admin: Person
) -> None:
    allocation = gang(world, gpus=3)
    store = world.fleet.lead()
    (placement,) = decide(store)
    admit(store, placement)
    on = set(world.fleet.allocation(allocation.id).host_ids)
    assert len(on) == 2
    machines = app_client.get("/api/v1/admin/machines", headers=admin.headers).json()["items"]
    shown = {machine["name"]: [len(lease["gpu_uuids"]) for lease in machine["leases"]] for machine in machines}
    assert shown == {host.name: [3] if host.id in on else [] for host in hosts}
