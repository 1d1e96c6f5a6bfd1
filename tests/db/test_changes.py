"""What the store tells the loop: everything once, then what is new, and nothing is missed."""

import math
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from api.allocations.changes import Look
from api.allocations.store import PostgresStore
from api.billing.journal import top_up
from api.billing.prices import create_price
from api.capacity.tables import CapacityGroup as GroupRow
from api.clock import to_ms, utc_now
from api.db import Database
from api.reservations.tables import Reservation, ReservationDevice
from scheduler.demand import Demand, Operator, Selector
from scheduler.host_protocol import LeaseEnd
from scheduler.packing.shape import Shape
from scheduler.ports import Changes, Ended, Placed, Placement, PlacementFailed
from scheduler.prices import Rates
from scheduler.quota import Limits
from scheduler.states import AllocationState, EndReason
from scheduler.views import CapacityGroup, Held, HostView
from tests.db.fleet import A100, DOLLAR, GIB, H100, Fleet, admit

NOTHING = Changes(hosts=[], hosts_gone=[], queued=[], held=[], gone=[], customers=[], usage=[])


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.price()
    return fleet


def run(fleet: Fleet, sql: str, **values: object) -> None:
    fleet.database.transact(lambda session: session.execute(text(sql), values))


def quiet(store: PostgresStore) -> bool:
    """Whether there is nothing to tell."""
    return store.changes() == NOTHING


def test_everything_is_told_first_and_nothing_twice(fleet: Fleet) -> None:
    fleet.host("h1"), fleet.host("h2")
    fleet.submit(
        fleet.customer(),
        nodes=2,
        gpus=2,
        gpu_models=["A100", "H100"],
        gpu_memory_bytes=GIB,
        apart="web",
        priority=300,
        preemptible=True,
        min_runtime_s=60,
        time_limit_s=90,
    )
    store = fleet.lead()
    first = store.changes()
    assert first.complete
    assert [view.name for view in first.hosts] == ["h1", "h2"]
    assert [device.uuid for device in first.hosts[0].devices] == [f"GPU-h1-{index}" for index in range(4)]
    (request,) = first.queued
    shape, models = Shape(4000, 16 * GIB, gpus=2), ("A100", "H100")
    assert request.demand == Demand(
        shape, nodes=2, models=models, gpu_memory_bytes=GIB, apart="web", image="remotegpu/base:1"
    )
    assert (request.priority, request.preemptible, request.min_runtime_s) == (300, True, 60)
    assert (request.limit_s, request.hold_s) == (90, 90), "no more is paid ahead than it may run"
    (customer,) = first.customers
    assert (customer.weight, customer.limits, customer.available_micro) == (1.0, Limits(queued=100), 1000 * DOLLAR)
    assert customer.prices == {A100: Rates.of(2 * DOLLAR)}
    assert (first.groups, first.reservations, first.idle_groups) == ([], [], [])
    assert quiet(store)
    assert store.changes(complete=True).queued == [request]


def test_conditions_come_as_they_were_asked_for(fleet: Fleet) -> None:
    fleet.host()
    run(fleet, """update hosts set labels = '{"rack": "a", "mem": "9"}', facts = '{"cuda_version": "12.4"}'""")
    fleet.submit(fleet.customer(), selectors=["rack in (a,b)", "!spot,mem>5"], cuda="12.2")
    (request,) = fleet.lead().changes().queued
    assert request.demand.selectors == (
        Selector("rack", Operator.IN, ("a", "b")),
        Selector("spot", Operator.ABSENT),
        Selector("mem", Operator.GREATER, ("5",)),
    )
    assert (request.demand.driver, request.demand.cuda) == ((), (12, 2))


def test_an_allocation_is_told_at_each_step(fleet: Fleet) -> None:
    host, acme = fleet.host(), fleet.customer()
    store = fleet.lead()
    store.changes()
    allocation = fleet.submit(acme)
    assert [request.allocation_id for request in store.changes().queued] == [allocation.id]
    admit(store, fleet.placement(allocation, host, 2))
    (held,) = store.changes().held
    assert (held.state, held.generation, len(held.parts)) == (AllocationState.PLACING, 1, 1)
    assert held.parts == (fleet.part(host, 2),)
    store.record([Placed(allocation.id, 1)])
    assert [item.state for item in store.changes().held] == [AllocationState.ACTIVE]
    run(fleet, "update allocations set checkpoint_at = now()")
    assert store.changes().held[0].checkpoint_at is not None
    fleet.end(allocation, EndReason.COMPLETED)
    assert [item.state for item in store.changes().held] == [AllocationState.RELEASING]
    store.record([Ended(allocation.id, 1, (LeaseEnd(to_ms(utc_now()), 0, None),))])
    told = store.changes()
    assert (list(told.gone), told.held, told.queued) == ([allocation.id], [], [])
    assert [(group.host_id, len(group.gpu_ids)) for group in told.idle_groups or ()] == [(host.id, 1)]
    following = fleet.submit(acme)
    admit(store, fleet.placement(following, host, 2))
    assert store.changes().idle_groups == []


def test_what_others_do_to_what_the_store_itself_has_changed_is_seen(fleet: Fleet) -> None:
    host, acme = fleet.host(), fleet.customer()
    store = fleet.lead()
    store.changes()
    ended, failed, cancelled = [fleet.submit(acme) for _ in range(3)]
    for index, allocation in enumerate((ended, failed, cancelled)):
        admit(store, fleet.placement(allocation, host, index))
    store.record([Placed(ended.id, 1), PlacementFailed(failed.id, 1, "no", utc_now())])
    fleet.end(ended, EndReason.COMPLETED)
    told = store.changes()
    assert {item.request.allocation_id: item.state for item in told.held} == {
        ended.id: AllocationState.RELEASING,
        cancelled.id: AllocationState.PLACING,
    }
    assert [request.allocation_id for request in told.queued] == [failed.id]
    assert sorted(told.held, key=_number) == sorted(fleet.lead().changes().held, key=_number)


def _number(held: Held) -> int:
    return held.request.allocation_id


def test_after_a_change_that_failed_everything_is_told_again(fleet: Fleet) -> None:
    """Whether it was made, the store does not know."""
    host, acme = fleet.host(), fleet.customer()
    store = fleet.lead()
    store.changes()
    allocation = fleet.submit(acme)
    with pytest.raises(KeyError):
        store.admit([Placement(10**9, (fleet.part(host, 0),))])
    told = store.changes()
    assert told.complete and [request.allocation_id for request in told.queued] == [allocation.id]


def test_a_host_has_the_images_that_it_has_run(fleet: Fleet) -> None:
    host, acme = fleet.host(), fleet.customer()
    store = fleet.lead()
    store.changes()
    for number, image in enumerate(("base:1", "base:1", "other:2")):
        allocation = fleet.submit(acme, image=image)
        admit(store, fleet.placement(allocation, host, number))
        assert store.changes().hosts == []
        store.record([Placed(allocation.id, 1)])
        told = [view.images for view in store.changes().hosts]
        assert told == [[{"base:1"}], [], [{"base:1", "other:2"}]][number]
    run(fleet, "update hosts set cpu_milli = 64000")
    assert [view.images for view in store.changes().hosts] == [{"base:1", "other:2"}]
    assert [view.images for view in fleet.lead().changes().hosts] == [{"base:1", "other:2"}]


def test_what_was_not_committed_at_one_look_is_told_at_the_next(fleet: Fleet) -> None:
    fleet.host("h1"), fleet.host("h2")
    store = fleet.lead()
    store.changes()
    with fleet.database.engine.connect() as slow:
        slow.execute(text("update hosts set admin_state = 'draining' where name = 'h1'"))
        run(fleet, "update hosts set admin_state = 'draining' where name = 'h2'")
        assert [view.name for view in store.changes().hosts] == ["h2"]
        assert quiet(store)
        slow.commit()
    (host,) = store.changes().hosts
    assert (host.name, host.why_not) == ("h1", "its operator has set it to draining")
    assert quiet(store)


def test_a_change_in_flight_at_the_first_look_is_told_at_the_next(fleet: Fleet) -> None:
    fleet.host()
    store = fleet.lead()
    with fleet.database.engine.connect() as slow:
        slow.execute(text("update hosts set cpu_milli = 1"))
        (host,) = store.changes().hosts
        assert host.cpu_milli == 32_000
        slow.commit()
    assert [view.cpu_milli for view in store.changes().hosts] == [1]


@pytest.mark.parametrize(
    "sql",
    [
        "update hosts set heartbeat_at = now(), problems = '[\"x\"]', boot_id = 'b'",
        'update gpus set reading = \'{"uuid": "x"}\', reading_at = now(), healthy = true',
        'update allocations set run_until = now(), wait_reason = \'{"code": "x"}\'',
        "update customers set name = 'other'",
        "update accounts set balance_micro = balance_micro + 1 where kind = 'revenue'",
    ],
)
def test_what_is_no_change_to_the_loop_is_not_told(fleet: Fleet, sql: str) -> None:
    fleet.host()
    fleet.submit(fleet.customer())
    store = fleet.lead()
    store.changes()
    run(fleet, sql)
    assert quiet(store)


@pytest.mark.parametrize(
    ("sql", "seen"),
    [
        ('update hosts set labels = \'{"rack": "a"}\'', lambda view: view.labels == {"rack": "a"}),
        ('update hosts set facts = \'{"driver_version": "550.54.15"}\'', lambda view: view.driver == (550, 54, 15)),
        ("update hosts set device_status = 'unreachable'", lambda view: view.why_not == "it is unreachable"),
        ("update hosts set device_status = 'unreachable'", lambda view: not view.reachable),
        ("update hosts set device_status = 'degraded'", lambda view: view.reachable and not view.schedulable),
        ("update gpus set healthy = false where index = 1", lambda view: len(view.devices) == 3),
        (
            'update gpus set nvlink_peer_uuids = \'["GPU-h1-1", "elsewhere"]\' where index = 0',
            lambda view: view.devices[0].peers == {view.devices[1].gpu_id},
        ),
    ],
)
def test_a_host_is_told_when_it_changes(fleet: Fleet, sql: str, seen: Callable[[HostView], bool]) -> None:
    fleet.host()
    store = fleet.lead()
    store.changes()
    run(fleet, sql)
    (view,) = store.changes().hosts
    assert seen(view)
    assert quiet(store)


def test_a_retired_host_is_gone(fleet: Fleet) -> None:
    host = fleet.host()
    store = fleet.lead()
    store.changes()
    run(fleet, "update hosts set admin_state = 'retired'")
    told = store.changes()
    assert (told.hosts, told.hosts_gone) == ([], [host.id])
    assert fleet.lead().changes().hosts == []


def test_a_price_makes_devices_rentable_from_its_time_on(fleet: Fleet) -> None:
    fleet.host(model=H100)
    now = utc_now()
    store = PostgresStore(fleet.database, fleet.settings, epoch=fleet.epoch(), clock=lambda: now)
    assert store.changes().hosts[0].devices == ()
    later = now + timedelta(hours=1)
    fleet.database.transact(
        lambda session: create_price(session, gpu_model="H100", price_micro=1, effective_from=later)
    )
    assert store.changes().hosts[0].devices == ()
    assert quiet(store)
    now = later
    assert len(store.changes().hosts[0].devices) == 4
    assert quiet(store)


def test_a_look_that_failed_is_followed_by_a_complete_one(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.host()
    store = fleet.lead()
    store.changes()
    run(fleet, "update hosts set cpu_milli = 1")

    def fail(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(Look, "learn", fail)  # the transaction has committed: what was noted is gone
        with pytest.raises(RuntimeError):
            store.changes()
    told = store.changes()
    assert told.complete
    assert [view.cpu_milli for view in told.hosts] == [1]


def test_past_use_decays(fleet: Fleet) -> None:
    host, (customer, workspace, _) = fleet.host(), fleet.customer()
    store = fleet.lead()
    ended, running = fleet.submit((customer, workspace, _), gpus=2), fleet.submit((customer, workspace, _))
    for number, allocation in enumerate((ended, running)):
        admit(store, fleet.placement(allocation, host, *((0, 1), (2,))[number]))
        store.record([Placed(allocation.id, 1)])
    fleet.end(ended, EndReason.COMPLETED)
    store.record([Ended(ended.id, 1, ())])
    now = utc_now()
    week = fleet.settings.fair_share_half_life_s
    run(fleet, "update allocations set placed_at = :at", at=now - timedelta(seconds=2 * week))
    run(fleet, "update allocations set released_at = :at where id = :id", at=now - timedelta(seconds=week), id=ended.id)
    (usage,) = PostgresStore(fleet.database, fleet.settings, epoch=fleet.epoch(), clock=lambda: now).changes().usage
    assert (usage.customer_id, usage.workspace_id, usage.at) == (customer.id, workspace.id, now)
    of_ended, of_running = (1 / 2 - 1 / 4) * week / math.log(2), (1 - 1 / 4) * week / math.log(2)
    assert usage.gpu_milli_s == pytest.approx(2000 * of_ended + 1000 * of_running)
    assert usage.cpu_milli_s == pytest.approx(4000 * (of_ended + of_running))
    assert usage.memory_byte_s == pytest.approx(16 * GIB * (of_ended + of_running))


def test_a_wallet_is_told_while_something_waits(fleet: Fleet) -> None:
    fleet.host()
    acme = fleet.customer()
    store = fleet.lead()
    store.changes()

    def pay(key: str) -> None:
        fleet.database.transact(
            lambda session: top_up(session, customer_id=acme[0].id, amount_micro=DOLLAR, actor="cli", key=key)
        )

    pay("while nothing waits")
    assert quiet(store)
    fleet.submit(acme)
    assert [view.available_micro for view in store.changes().customers] == [1001 * DOLLAR]
    pay("while something waits")
    assert [view.available_micro for view in store.changes().customers] == [1002 * DOLLAR]
    fleet.submit(acme)
    assert store.changes().customers == [], "it was told already"


def test_limits_weight_and_currency_are_told(fleet: Fleet) -> None:
    fleet.host()
    acme = fleet.customer()
    fleet.submit(acme)
    store = fleet.lead()
    store.changes()
    run(fleet, "insert into quotas (customer_id, gpus) values (:id, 3)", id=acme[0].id)
    assert [view.limits.gpus for view in store.changes().customers] == [3]
    run(fleet, "delete from quotas")
    assert [view.limits.gpus for view in store.changes().customers] == [None]
    run(fleet, "insert into settings (key, value) values ('default_quota', '{\"gpus\": 7}')")
    assert [view.limits.gpus for view in store.changes().customers] == [7]
    run(fleet, "update customers set weight = 2.5, disabled_at = now()")
    assert [(view.weight, view.disabled) for view in store.changes().customers] == [(2.5, True)]
    assert quiet(store)


def test_capacity_groups_are_told_whole(fleet: Fleet) -> None:
    acme = fleet.customer()
    store = fleet.lead()
    store.changes()

    def add(name: str) -> None:
        row = GroupRow(name=name, customer_id=acme[0].id, cohort="all", nominal_milli=4000, lending_limit_milli=1000)
        fleet.database.transact(lambda session: session.add(row))

    add("b"), add("a")
    expected = [CapacityGroup(name, "all", 4000, lending_limit=1000) for name in ("a", "b")]
    assert store.changes().groups == expected
    run(fleet, "delete from capacity_groups where name = 'a'")
    assert store.changes().groups == expected[1:]
    assert quiet(store)


def test_reservations_are_told_until_they_are_over_or_cancelled(fleet: Fleet) -> None:
    host, (customer, workspace, user) = fleet.host(), fleet.customer()
    store = fleet.lead()
    store.changes()
    starts_at = utc_now() + timedelta(hours=1)
    devices = fleet.part(host, 1, 2)

    ends_at = starts_at + timedelta(hours=1)

    def book(session: Session) -> None:
        row = Reservation(
            customer_id=customer.id,
            workspace_id=workspace.id,
            user_id=user.id,
            starts_at=starts_at,
            ends_at=ends_at,
            gpus=2,
            cpu_milli=4000,
            memory_bytes=GIB,
        )
        session.add(row)
        session.flush()
        for gpu_id, _ in devices.devices:
            session.add(ReservationDevice(reservation_id=row.id, gpu_id=gpu_id, period=Range(starts_at, ends_at)))

    fleet.database.transact(book)
    (reservation,) = store.changes().reservations or ()
    assert (reservation.customer_id, reservation.starts_at, reservation.parts) == (customer.id, starts_at, (devices,))
    run(fleet, "update reservations set state = 'cancelled'")
    assert store.changes().reservations == []
    run(fleet, "update reservations set state = 'booked', starts_at = now() - interval '2 h', ends_at = now()")
    assert store.changes().reservations == []
