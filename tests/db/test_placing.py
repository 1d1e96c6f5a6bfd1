"""`queued -> placing -> active`: one owner per device, quota and money held, everything repairable by name."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.errors import ExclusionViolation
from sqlalchemy import text, update
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.exc import IntegrityError

from api.allocations.tables import AllocationDevice, AllocationEvent
from api.billing.journal import balance, top_up
from api.billing.verify import check
from api.clock import utc_now
from api.db import Database
from api.errors import ApiError, Unprocessable
from api.machines.tables import Host
from api.quotas.tables import Quota
from scheduler.ports import Admitted, Dropped, Eviction, LostLeadershipError, Placed, PlacementFailed, WaitReason
from scheduler.states import AllocationState, EndReason
from tests.db.fleet import A100, DOLLAR, GIB, H100, Fleet, activate, admit, decide, refusal


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return Fleet(database)


def set_quota(fleet: Fleet, customer_id: int, **limits: int) -> None:
    fleet.database.transact(lambda session: session.add(Quota(customer_id=customer_id, **limits)))


def top_up_of(fleet: Fleet, customer_id: int, micro: int) -> None:
    fleet.database.transact(
        lambda session: top_up(session, customer_id=customer_id, amount_micro=micro, actor="cli", key="all")
    )


def test_a_request_becomes_a_lease_on_the_devices_decided(fleet: Fleet) -> None:
    host = fleet.host()
    fleet.price()
    acme = fleet.customer()
    allocation = fleet.submit(acme, gpus=2)
    store = fleet.lead()
    (placement,) = decide(store)
    admitted = admit(store, placement)
    (lease,) = admitted.leases
    assert [device.uuid for device in lease.devices] == ["GPU-h1-0", "GPU-h1-1"]
    assert admitted.group_name == f"rg-{allocation.uid}-1"
    assert (admitted.generation, lease.generation) == (1, 1)
    assert admitted.shares[0].host_uid == str(host.uid)
    row = fleet.allocation(allocation.id)
    assert row.state == AllocationState.PLACING
    assert row.run_until is not None and row.run_until > utc_now() + timedelta(seconds=590)
    with fleet.database.session() as session:
        held = balance(session, acme[0].id).held_micro
    assert held >= 2 * 2 * DOLLAR * 600 // 3600
    assert store.record([Placed(allocation.id, 1), Placed(allocation.id, 1)]) == [True, False]
    assert not activate(store, allocation)
    assert fleet.groups()[admitted.group_name].state == "reserved"
    assert [(e.from_state, e.to_state) for e in fleet.rows(AllocationEvent)] == [
        (None, "queued"),
        ("queued", "placing"),
        ("placing", "active"),
    ]


def test_twenty_racing_for_one_device_yield_one(fleet: Fleet) -> None:
    host = fleet.host(gpus=1)
    fleet.price()
    owners = [fleet.customer(f"c{i}") for i in range(4)]
    allocations = [fleet.submit(owners[i % 4]) for i in range(20)]
    store = fleet.lead()
    placements = [fleet.placement(allocation, host, 0) for allocation in allocations]
    with ThreadPoolExecutor(20) as pool:
        answers = [answer for (answer,) in pool.map(lambda placement: store.admit([placement]), placements)]
    assert sum(isinstance(answer, Admitted) for answer in answers) == 1
    assert {answer.code for answer in answers if isinstance(answer, WaitReason)} == {"no_capacity"}
    assert len(fleet.open_device_rows()) == 1


@pytest.mark.parametrize(("quota", "paid_for", "fitting"), [(5, 7, 5), (9, 7, 7)])
@pytest.mark.parametrize("batch", [1, 20, 100])
def test_a_hundred_placings_at_once(fleet: Fleet, quota: int, paid_for: int, fitting: int, batch: int) -> None:
    """Against a balance for 7 and a quota of 5, exactly 5 fit; with a larger quota, exactly 7."""
    host = fleet.host(gpus=100, cpu=1000, memory_gib=4000)
    fleet.price(micro=3600 * DOLLAR)  # a dollar a second
    acme = fleet.customer(dollars=0)
    hold = 600 * DOLLAR + 1  # ten minutes, rounded up
    top_up_of(fleet, acme[0].id, paid_for * hold + 3)
    set_quota(fleet, acme[0].id, gpus=quota)
    allocations = [fleet.submit(acme) for _ in range(100)]
    placements = [fleet.placement(allocation, host, index) for index, allocation in enumerate(allocations)]
    store = fleet.lead()
    with ThreadPoolExecutor(16) as pool:
        batches = [placements[start : start + batch] for start in range(0, 100, batch)]
        answers = [answer for some in pool.map(store.admit, batches) for answer in some]
    assert sum(isinstance(answer, Admitted) for answer in answers) == fitting
    assert {answer.code for answer in answers if isinstance(answer, WaitReason)} == {
        "quota" if fitting == quota else "balance"
    }
    with fleet.database.session() as session:
        assert balance(session, acme[0].id).available_micro == (paid_for - fitting) * hold + 3
        assert check(session) == []
    assert len(fleet.open_device_rows()) == fitting


def test_the_database_itself_refuses_a_second_owner(fleet: Fleet) -> None:
    host = fleet.host(gpus=1)
    fleet.price()
    acme = fleet.customer()
    first, second = fleet.submit(acme), fleet.submit(acme)
    admit(fleet.lead(), fleet.placement(first, host, 0))
    gpu_id = fleet.open_device_rows()[0].gpu_id

    def intrude(milli_from: int, milli_to: int) -> None:
        period = Range(datetime(2020, 1, 1, tzinfo=UTC), None)
        row = {"gpu_id": gpu_id, "generation": 1, "milli_from": milli_from, "milli_to": milli_to}
        fleet.database.transact(
            lambda session: session.add(AllocationDevice(allocation_id=second.id, period=period, **row))
        )

    for share in ((0, 1000), (0, 1), (999, 1000)):
        with pytest.raises(IntegrityError) as caught:
            intrude(*share)
        assert isinstance(caught.value.orig, ExclusionViolation)


def test_an_overlap_that_only_the_database_sees_costs_the_others_nothing(fleet: Fleet) -> None:
    """As if the constraint had found what nobody else has: no code of ours brings that about."""
    host = fleet.host()
    fleet.price()
    acme = fleet.customer()
    wanted = [fleet.submit(acme) for _ in range(3)]
    refuse = "begin raise exclusion_violation using message = 'somebody has it'; end"
    with fleet.database.engine.begin() as connection:
        connection.execute(text(f"create function refuse() returns trigger language plpgsql as $$ {refuse} $$"))
        connection.execute(
            text(
                "create trigger refuse before insert on allocation_devices for each row"
                f" when (new.allocation_id = {wanted[1].id}) execute function refuse()"
            )
        )
    placements = [fleet.placement(allocation, host, index) for index, allocation in enumerate(wanted)]
    first, second, third = fleet.lead().admit(placements)
    assert isinstance(first, Admitted) and isinstance(third, Admitted)
    assert isinstance(second, WaitReason) and second.code == "no_capacity"
    assert [fleet.allocation(allocation.id).state for allocation in wanted] == ["placing", "queued", "placing"]


def test_a_refused_one_leaves_room_for_the_next_of_its_batch(fleet: Fleet) -> None:
    host = fleet.host(gpus=2)
    fleet.price()
    poor, rich = fleet.customer("poor", dollars=0), fleet.customer("rich")
    unpaid, paid = fleet.submit(poor), fleet.submit(rich)
    store = fleet.lead()
    answers = store.admit([fleet.placement(unpaid, host, 0), fleet.placement(paid, host, 0)])
    assert [isinstance(answer, Admitted) for answer in answers] == [False, True]
    (again,) = store.admit([fleet.placement(paid, host, 1)])
    assert again == WaitReason("no_capacity", "It is placing by now.", 1)


def test_a_refusal_tells_the_place_among_the_customers_own(fleet: Fleet) -> None:
    host = fleet.host()
    fleet.price()
    poor = fleet.customer("poor", dollars=0)
    low, high = fleet.submit(poor), fleet.submit(poor, priority=9)
    answers = fleet.lead().admit([fleet.placement(low, host, 0), fleet.placement(high, host, 1)])
    assert [answer.position for answer in answers if isinstance(answer, WaitReason)] == [2, 1]


def test_a_failed_placement_leaves_nothing_and_waits_before_the_next(fleet: Fleet) -> None:
    host = fleet.host(gpus=1)
    fleet.price()
    acme = fleet.customer()
    allocation = fleet.submit(acme)
    store = fleet.lead()
    admitted = admit(store, fleet.placement(allocation, host, 0))
    retry_at = utc_now() + timedelta(seconds=30)
    failure = PlacementFailed(allocation.id, 1, "no capacity", retry_at)
    assert store.record([failure, failure]) == [True, False]
    assert store.record([failure]) == [False]
    assert fleet.open_device_rows() == []
    assert store.groups_to_drop() == [admitted.group_name]
    assert store.record([Dropped(admitted.group_name), Dropped("unknown")]) == [True, False]
    assert store.groups_to_drop() == []
    with fleet.database.session() as session:
        assert balance(session, acme[0].id).held_micro == 0
    assert decide(store) == []
    again = admit(store, fleet.placement(allocation, host, 0))
    assert again.generation == 2
    assert again.group_name == f"rg-{allocation.uid}-2"
    assert not activate(store, allocation, generation=1)


def test_a_new_leader_finds_unfinished_placements_as_they_were_admitted(fleet: Fleet) -> None:
    host = fleet.host()
    fleet.price()
    allocation = fleet.submit(fleet.customer(), gpus=3)
    admitted = admit(fleet.lead(), fleet.placement(allocation, host, 0, 1, 3))
    (held,) = fleet.lead().changes().held
    assert fleet.lead().placing([held.request.allocation_id]) == [admitted]


def test_a_leader_of_yesterday_changes_nothing(fleet: Fleet) -> None:
    host = fleet.host()
    fleet.price()
    allocation = fleet.submit(fleet.customer())
    old = fleet.lead()
    admit(old, fleet.placement(allocation, host, 0))
    fleet.lead()
    for call in (
        lambda: old.changes(),
        lambda: old.record([Placed(allocation.id, 1)]),
        lambda: old.evict([Eviction(allocation.id, 1, 0, "")]),
        lambda: old.admit([fleet.placement(allocation, host, 1)]),
        lambda: old.record_waits({}),
        lambda: old.placing([allocation.id]),
        lambda: old.releasing([allocation.id]),
        old.groups_to_drop,
    ):
        with pytest.raises(LostLeadershipError):
            call()
    assert fleet.allocation(allocation.id).state == AllocationState.PLACING


def test_quota_and_balance_hold_back_with_a_reason(fleet: Fleet) -> None:
    host = fleet.host(gpus=8)
    fleet.price()
    poor = fleet.customer("poor", dollars=0)
    rich = fleet.customer("rich")
    set_quota(fleet, rich[0].id, gpus=2)
    store = fleet.lead()
    assert refusal(store, fleet.placement(fleet.submit(poor), host, 0)).code == "balance"
    admit(store, fleet.placement(fleet.submit(rich, gpus=2), host, 0, 1))
    assert refusal(store, fleet.placement(fleet.submit(rich), host, 2)).code == "quota"
    assert len(fleet.open_device_rows()) == 2


@pytest.mark.parametrize(
    "change",
    [
        "update hosts set device_status = 'unreachable'",
        "update hosts set admin_state = 'draining'",
        "update gpus set healthy = false where index = 0",
        "update gpus set present = false where index = 0",
        "update hosts set cpu_milli = 3999",
        "update hosts set memory_bytes = 1024",
    ],
)
def test_what_changed_since_the_snapshot_is_seen_at_admission(fleet: Fleet, change: str) -> None:
    host = fleet.host()
    fleet.price()
    allocation = fleet.submit(fleet.customer())
    fleet.database.transact(lambda session: session.execute(text(change)))
    assert refusal(fleet.lead(), fleet.placement(allocation, host, 0)).code == "no_capacity"
    assert fleet.open_device_rows() == []


def set_kind(fleet: Fleet, **columns: object) -> None:
    """`labels` or `facts` of all hosts."""
    fleet.database.transact(lambda session: session.execute(update(Host).values(**columns)))


@pytest.mark.parametrize(
    ("asked", "change", "said"),
    [
        ({"selectors": ["region=eu"]}, {"labels": {"region": "us"}}, "'region=eu'"),
        ({"selectors": ["region=eu,!spot"]}, {"labels": {"region": "eu", "spot": ""}}, "'!spot'"),
        ({"driver": "550.54"}, {"facts": {"driver_version": "550.53.9", "cuda_version": "12.4"}}, "driver"),
        ({"cuda": "12.4"}, {"facts": {"driver_version": "550.54", "cuda_version": "12"}}, "driver"),
        ({"cuda": "12.4"}, {"facts": {}}, "driver"),
    ],
)
def test_a_host_that_is_of_another_kind_by_now_is_refused(
    fleet: Fleet, asked: dict[str, object], change: dict[str, object], said: str
) -> None:
    host = fleet.host()
    fleet.price()
    set_kind(fleet, labels={"region": "eu"}, facts={"driver_version": "550.54", "cuda_version": "12.4"})
    acme = fleet.customer()
    before, after = fleet.submit(acme, **asked), fleet.submit(acme, **asked)
    store = fleet.lead()
    admit(store, fleet.placement(before, host, 0))
    set_kind(fleet, **change)
    refused = refusal(store, fleet.placement(after, host, 1))
    assert (refused.code, said in refused.detail) == ("no_capacity", True), refused.detail
    assert {row.allocation_id for row in fleet.open_device_rows()} == {before.id}


def test_what_is_to_be_apart_shares_no_host(fleet: Fleet) -> None:
    first, second = fleet.host(), fleet.host("h2")
    fleet.price()
    acme, other = fleet.customer(), fleet.customer("other")
    web, again, third = (fleet.submit(acme, apart="web") for _ in range(3))
    batch, rival = fleet.submit(acme, apart="batch"), fleet.submit(other, apart="web")
    store = fleet.lead()
    one, two = store.admit([fleet.placement(web, first, 0), fleet.placement(again, first, 1)])
    assert isinstance(one, Admitted)
    assert isinstance(two, WaitReason) and "h1 has another one of web" in two.detail
    assert refusal(store, fleet.placement(third, first, 1)).code == "no_capacity"
    for index, allocation in enumerate((batch, rival), start=1):
        admit(store, fleet.placement(allocation, first, index))
    admit(store, fleet.placement(again, second, 0))


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"gpu_models": ["B200"]}, "no_such_model"),
        ({"gpus": 5}, "too_many_gpus"),
        ({"memory_bytes": 257 * GIB}, "too_much_memory"),
        ({"cpu_milli": 33_000}, "too_many_cpus"),
        ({"gpu_models": ["H100"]}, "no_price"),
        ({"bound_host_id": 999}, "host_not_available"),
        ({"disconnect_s": 0}, "bad_request"),
    ],
)
def test_what_could_never_run_is_refused(fleet: Fleet, asked: dict[str, object], code: str) -> None:
    fleet.host()
    fleet.host("h2", model=H100)
    fleet.price()
    with pytest.raises(Unprocessable) as caught:
        fleet.submit(fleet.customer(), **asked)
    assert caught.value.code == code


def test_more_than_the_quota_allows_at_all_is_refused(fleet: Fleet) -> None:
    fleet.host()
    fleet.price()
    acme = fleet.customer()
    set_quota(fleet, acme[0].id, gpus=2)
    with pytest.raises(ApiError) as caught:
        fleet.submit(acme, gpus=3)
    assert caught.value.code == "quota_exceeded"


def test_the_snapshot_offers_only_what_can_be_rented(fleet: Fleet) -> None:
    fleet.host("h1")
    fleet.host("h2", model=H100)
    fleet.price()
    fleet.database.transact(lambda session: session.execute(text("update gpus set healthy = false where index = 3")))
    fleet.database.transact(
        lambda session: session.execute(text("update hosts set admin_state = 'maintenance' where name = 'h2'"))
    )
    first, second = fleet.lead().changes().hosts
    assert [(device.uuid, device.model) for device in first.devices] == [(f"GPU-h1-{i}", A100) for i in range(3)]
    assert not second.schedulable and second.devices == ()


def test_reasons_are_written_once_and_only_to_what_waits(fleet: Fleet) -> None:
    host = fleet.host(gpus=1)
    fleet.price()
    acme = fleet.customer()
    placed, waiting = fleet.submit(acme), fleet.submit(acme)
    store = fleet.lead()
    admit(store, fleet.placement(placed, host, 0))
    reason = WaitReason("no_capacity", "0 of 1 free", 1, {"free": 0})
    store.record_waits({placed.id: reason, waiting.id: reason})
    assert fleet.allocation(placed.id).wait_reason is None
    written = fleet.allocation(waiting.id).wait_reason
    told = {"code": "no_capacity", "detail": "0 of 1 free", "position": 1, "figures": {"free": 0}}
    assert written == told | {"eta": None, "eta_basis": "unknown"}
    with fleet.database.engine.connect() as connection:
        before = connection.execute(
            text("select xmin from allocations where id = :id"), {"id": waiting.id}
        ).scalar_one()
    store.record_waits({waiting.id: reason})
    with fleet.database.engine.connect() as connection:
        after = connection.execute(text("select xmin from allocations where id = :id"), {"id": waiting.id}).scalar_one()
    assert before == after


def test_a_queued_request_is_cancelled_at_once(fleet: Fleet) -> None:
    host = fleet.host()
    fleet.price()
    allocation = fleet.submit(fleet.customer())
    fleet.end(allocation, EndReason.CANCELLED)
    fleet.end(allocation, EndReason.FAILED)
    row = fleet.allocation(allocation.id)
    assert (row.state, row.end_reason) == ("released", "cancelled")
    assert row.released_at is not None
    refusal(fleet.lead(), fleet.placement(allocation, host, 0))
