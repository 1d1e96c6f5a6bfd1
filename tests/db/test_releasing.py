"""`releasing -> released`: devices free when the end is confirmed, groups handed on, moved aside, or dropped."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from api.allocations.store import PostgresStore
from api.allocations.tables import Allocation
from api.billing.journal import balance
from api.billing.verify import check
from api.clock import to_ms, utc_now
from api.db import Database
from api.machines.tables import Host
from scheduler.host_protocol import LeaseEnd, LeaseKind
from scheduler.ports import Admitted, Dropped, Ended, Eviction, Placed, PlacementFailed
from scheduler.states import EndReason
from tests.db.fleet import GIB, Fleet, admit, decide, releasing


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.price()
    return fleet


def run(fleet: Fleet, store: PostgresStore, allocation: Allocation, host: Host, *indexes: int) -> Admitted:
    """Place and activate, as the loop does when every effect succeeds."""
    admitted = admit(store, fleet.placement(allocation, host, *indexes))
    dropped = [Dropped(name) for name in admitted.drop_groups]
    assert all(store.record([*dropped, Placed(allocation.id, admitted.generation)]))
    return admitted


def confirmed() -> LeaseEnd:
    return LeaseEnd(to_ms(utc_now()), exit_code=0, last_window=None)


def finish(fleet: Fleet, store: PostgresStore, allocation: Allocation) -> None:
    fleet.end(allocation, EndReason.COMPLETED)
    (ending,) = releasing(store)
    assert store.record([Ended(ending.allocation_id, ending.generation, (confirmed(),))]) == [True]


def test_release_frees_the_devices_and_settles_the_hold(fleet: Fleet) -> None:
    host = fleet.host()
    acme = fleet.customer()
    allocation = fleet.submit(acme)
    store = fleet.lead()
    run(fleet, store, allocation, host, 0)
    fleet.end(allocation, EndReason.COMPLETED)
    assert len(fleet.open_device_rows()) == 1
    (ending,) = releasing(store)
    assert (ending.host_uids, ending.grace_s) == ((str(host.uid),), 10)
    with fleet.database.session() as session:
        before = balance(session, acme[0].id).held_micro
    assert store.record([Ended(allocation.id, 0, ())]) == [False]
    assert len(fleet.open_device_rows()) == 1, "an older generation changes nothing"
    assert [store.record([Ended(allocation.id, 1, (confirmed(),))]) for _ in range(2)] == [[True], [False]]
    assert fleet.open_device_rows() == []
    assert store.releasing([allocation.id]) == []
    with fleet.database.session() as session:
        assert before > 0 and balance(session, acme[0].id).held_micro == 0, "the host has nothing more to tell"
    assert fleet.allocation(allocation.id).state == "released"


def test_a_tasks_host_hears_of_its_grace_and_why_it_ends(fleet: Fleet) -> None:
    host = fleet.host()
    allocation = fleet.submit(fleet.customer(), kind="task", grace_s=120, shm_bytes=GIB)
    store = fleet.lead()
    (lease,) = run(fleet, store, allocation, host, 0).leases
    assert (lease.kind, lease.shm_bytes, lease.rank, lease.nodes) == (LeaseKind.TASK, GIB, 0, 1)
    store.evict([Eviction(allocation.id, 1, None, "somebody else")])
    (ending,) = releasing(store)
    assert (ending.grace_s, ending.reason) == (120, "preempted")


def test_an_idle_group_is_handed_on_to_the_same_shape(fleet: Fleet) -> None:
    host = fleet.host()
    acme = fleet.customer()
    store = fleet.lead()
    first = fleet.submit(acme)
    admitted = run(fleet, store, first, host, 1)
    finish(fleet, store, first)
    (idle,) = store.changes(complete=True).idle_groups
    assert idle.name == admitted.group_name
    assert store.groups_to_drop() == []
    second = fleet.submit(acme)
    (placement,) = decide(store)
    taken = admit(store, placement)
    assert (taken.group_name, taken.drop_groups) == (admitted.group_name, ())
    assert [device.uuid for device in taken.leases[0].devices] == ["GPU-h1-1"]
    assert fleet.groups()[taken.group_name].allocation_id == second.id
    assert store.changes(complete=True).idle_groups == []


def test_another_shape_on_the_devices_moves_the_idle_group_aside(fleet: Fleet) -> None:
    host = fleet.host(gpus=2)
    acme = fleet.customer()
    store = fleet.lead()
    first = fleet.submit(acme)
    admitted = run(fleet, store, first, host, 1)
    finish(fleet, store, first)
    fleet.submit(acme, gpus=2)
    (placement,) = decide(store)
    taken = admit(store, placement)
    assert taken.drop_groups == (admitted.group_name,)
    assert taken.group_name != admitted.group_name
    (again,) = store.placing([taken.allocation_id])
    assert again.drop_groups == (admitted.group_name,), "after a crash it is known still"


def test_other_devices_are_preferred_to_those_of_an_idle_group(fleet: Fleet) -> None:
    host = fleet.host()
    acme = fleet.customer()
    store = fleet.lead()
    first = fleet.submit(acme)
    run(fleet, store, first, host, 0)
    finish(fleet, store, first)
    fleet.submit(acme, cpu_milli=5000)
    (placement,) = decide(store)
    taken = admit(store, placement)
    assert [device.uuid for device in taken.leases[0].devices] == ["GPU-h1-1"]
    assert taken.drop_groups == ()


def test_idle_groups_give_way_when_ray_runs_short_of_cpu(fleet: Fleet) -> None:
    host = fleet.host(cpu=10)
    acme = fleet.customer()
    store = fleet.lead()
    first = fleet.submit(acme, cpu_milli=8000)
    admitted = run(fleet, store, first, host, 0)
    finish(fleet, store, first)
    fleet.submit(acme, cpu_milli=4000)
    (placement,) = decide(store)
    taken = admit(store, placement)
    assert [device.uuid for device in taken.leases[0].devices] == ["GPU-h1-1"]
    assert taken.drop_groups == (admitted.group_name,)


def test_a_group_is_dropped_when_idle_for_long(fleet: Fleet) -> None:
    host = fleet.host()
    store = fleet.lead()
    allocation = fleet.submit(fleet.customer())
    admitted = run(fleet, store, allocation, host, 0)
    finish(fleet, store, allocation)
    fleet.database.transact(
        lambda session: session.execute(text("update placement_groups set idle_since = now() - interval '31 s'"))
    )
    assert store.groups_to_drop() == [admitted.group_name]
    assert store.groups_to_drop() == [admitted.group_name], "until it is confirmed"
    assert store.record([Dropped(admitted.group_name)]) == [True]
    assert store.groups_to_drop() == []
    assert fleet.groups()[admitted.group_name].removed_at is not None


@pytest.mark.parametrize("status", ["lost", "unreachable"])
def test_the_group_of_a_host_that_went_is_not_handed_on(fleet: Fleet, status: str) -> None:
    host = fleet.host()
    store = fleet.lead()
    allocation = fleet.submit(fleet.customer())
    admitted = run(fleet, store, allocation, host, 0)
    fleet.end(allocation, EndReason.HOST_LOST)
    fleet.database.transact(lambda session: session.execute(text("update hosts set device_status = :s"), {"s": status}))
    (ending,) = releasing(store)
    assert ending.host_uids == (() if status == "lost" else (str(host.uid),))
    assert store.record([Ended(allocation.id, 1, ())]) == [True]
    assert store.changes(complete=True).idle_groups == []
    assert store.groups_to_drop() == [admitted.group_name]


def test_what_ends_while_it_is_placed_is_released_with_its_group_dropped(fleet: Fleet) -> None:
    host = fleet.host()
    store = fleet.lead()
    allocation = fleet.submit(fleet.customer())
    admitted = admit(store, fleet.placement(allocation, host, 0))
    fleet.end(allocation, EndReason.CANCELLED)
    late = [Placed(allocation.id, 1), PlacementFailed(allocation.id, 1, "", utc_now())]
    assert store.record(late) == [False, False]
    assert store.placing([allocation.id]) == []
    assert store.record([Ended(allocation.id, 1, ())]) == [True]
    assert fleet.open_device_rows() == []
    assert store.groups_to_drop() == [admitted.group_name]


def test_devices_can_be_taken_again_the_moment_they_are_free(fleet: Fleet) -> None:
    host = fleet.host(gpus=1, memory_gib=16)
    acme = fleet.customer()
    store = fleet.lead()
    for _ in range(3):
        allocation = fleet.submit(acme, memory_bytes=16 * GIB)
        run(fleet, store, allocation, host, 0)
        finish(fleet, store, allocation)
    assert timedelta(0) < utc_now() - fleet.allocation(allocation.id).released_at < timedelta(minutes=1)


def test_what_gives_way_is_preempted_once(fleet: Fleet) -> None:
    host = fleet.host()
    acme = fleet.customer()
    store = fleet.lead()
    active, placing, queued = fleet.submit(acme), fleet.submit(acme), fleet.submit(acme)
    run(fleet, store, active, host, 0)
    admit(store, fleet.placement(placing, host, 1))
    stale = Eviction(active.id, 0, queued.id, "an older generation")
    orders = [Eviction(each.id, 1, queued.id, "a request of priority 900") for each in (active, active, placing)]
    assert store.evict([stale, *orders]) == [False, True, False, False]
    row = fleet.allocation(active.id)
    assert (row.state, row.end_reason) == ("releasing", "preempted")
    assert row.end_detail == "a request of priority 900"
    assert [item.allocation_id for item in releasing(store)] == [active.id]
    assert store.record([Ended(active.id, 1, (confirmed(),))]) == [True]
    assert fleet.allocation(active.id).end_reason == "preempted"


def test_outcomes_of_all_kinds_are_one_batch(fleet: Fleet) -> None:
    host = fleet.host()
    acme = fleet.customer()
    store = fleet.lead()
    ended, placed, failed = fleet.submit(acme), fleet.submit(acme), fleet.submit(acme)
    run(fleet, store, ended, host, 0)
    fleet.end(ended, EndReason.COMPLETED)
    answers = store.admit([fleet.placement(placed, host, 1), fleet.placement(failed, host, 2)])
    assert all(isinstance(answer, Admitted) for answer in answers)
    failure = PlacementFailed(failed.id, 1, "no", utc_now())
    outcomes = [Ended(ended.id, 1, (confirmed(),)), Placed(placed.id, 1), failure, Placed(failed.id, 1)]
    assert store.record(outcomes) == [True, True, True, False]
    states = [fleet.allocation(each.id).state for each in (ended, placed, failed)]
    assert states == ["released", "active", "queued"]
    assert [row.allocation_id for row in fleet.open_device_rows()] == [placed.id]
    with fleet.database.session() as session:
        assert check(session) == []
