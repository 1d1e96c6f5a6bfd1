"""Warnings of an ending balance, each once per spell; and the ordered end of what it does not pay for."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations import transitions
from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.billing import unpaid
from api.billing.settlement import Ending, settle_holds
from api.billing.spending import load_spending
from api.billing.tables import BalanceWarning, PriceVersion
from api.billing.unpaid import end_unpaid
from api.billing.verify import check
from api.billing.warnings import set_thresholds, warn
from api.clock import from_ms, utc_now
from api.db import Database
from api.tenants.tables import Customer
from scheduler.host_protocol import LeaseEnd
from scheduler.states import AllocationState, EndReason
from tests.db.conftest import Tenant
from tests.db.ledger_world import MICRO, Lease, World

PRICE = 3_600 * MICRO  # a unit a second
GRACE_S = 10
BILLING = "/api/v1/customer/billing"


@pytest.fixture
def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    """What is placed and ended has the world's own time."""
    made = World(database)
    monkeypatch.setattr(transitions, "utc_now", lambda: made.now)
    return made


def _warn(world: World) -> int:
    return world.database.transact(lambda session: warn(session, grace_s=GRACE_S, now=world.now))


def _open(world: World, customer: Customer) -> list[int]:
    query = select(BalanceWarning.threshold_s).where(BalanceWarning.customer_id == customer.id)
    with world.database.session() as session:
        return sorted(session.scalars(query.where(BalanceWarning.cleared_at.is_(None))))


def _runs_out_at(world: World, customer: Customer) -> datetime | None:
    with world.database.session() as session:
        [found] = load_spending(session, grace_s=GRACE_S, now=world.now, customer_ids=[customer.id])
        return found.runs_out_at(world.now)


def _end_unpaid(world: World) -> int:
    return end_unpaid(world.database, grace_s=GRACE_S, now=world.now)


def _state(world: World, lease: Lease) -> tuple[str, str | None]:
    with world.database.session() as session:
        row = session.get_one(Allocation, lease.allocation_id)
        return row.state, row.end_reason


def _change(world: World, lease: Lease, **values: object) -> None:
    def work(session: Session) -> None:
        row = session.get_one(Allocation, lease.allocation_id, with_for_update=True)
        for name, value in values.items():
            setattr(row, name, value)

    world.database.transact(work)


def test_a_warning_comes_once_at_each_threshold_of_a_spell(world: World) -> None:
    customer, (_, gpus) = world.customer(balance_micro=4000 * MICRO + 1), world.host(gpus=1)
    world.database.transact(lambda session: set_thresholds(session, customer.id, [1800, 3600, 60]))
    lease = world.start(customer, world.price(PRICE), gpus, disconnect_s=300)
    assert (_warn(world), _open(world, customer)) == (1, [86_400])
    assert _runs_out_at(world, customer) == from_ms(lease.starts_ms + 4_000_000)
    seen = []
    for _ in range(13):
        world.pass_time(300_000)
        world.renew(lease)
        _warn(world)
        assert _warn(world) == 0, "not again"
        seen.append(_open(world, customer))
    assert seen[0] == [86_400]
    assert seen[1] == [3600, 86_400]
    assert seen[6] == [3600, 86_400]
    assert seen[7] == [1800, 3600, 86_400]
    assert seen[-1] == [600, 1800, 3600, 86_400]
    world.top_up(customer, 2000 * MICRO)
    assert (_warn(world), _open(world, customer)) == (0, [3600, 86_400]), "36 minutes are clearly more than 30"
    world.top_up(customer, 200_000 * MICRO)
    assert (_warn(world), _open(world, customer)) == (0, [])


def test_a_spell_does_not_end_by_a_hair_nor_by_nothing_running(world: World) -> None:
    customer, (_, gpus) = world.customer(balance_micro=550 * MICRO + 1), world.host(gpus=1)
    price = world.price(PRICE)
    lease = world.start(customer, price, gpus)
    _warn(world)
    assert _open(world, customer) == [600, 3600, 86_400]
    world.top_up(customer, 100 * MICRO)
    assert (_warn(world), _open(world, customer)) == (0, [600, 3600, 86_400]), "650 s are no tenth more than 600"
    world.release(lease, ended_at_ms=world.now_ms)
    assert (_warn(world), _open(world, customer)) == (0, [600, 3600, 86_400])
    world.start(customer, price, gpus)
    world.top_up(customer, 50 * MICRO)
    assert (_warn(world), _open(world, customer)) == (0, [3600, 86_400])
    world.pass_time(120_000)
    assert _warn(world) == 1, "a new spell"


def test_a_threshold_that_is_given_up_warns_no_more(world: World) -> None:
    customer, (_, gpus) = world.customer(balance_micro=7000 * MICRO), world.host(gpus=1)
    world.database.transact(lambda session: set_thresholds(session, customer.id, [7200]))
    world.start(customer, world.price(PRICE), gpus)
    _warn(world)
    assert _open(world, customer) == [7200, 86_400]
    world.database.transact(lambda session: set_thresholds(session, customer.id, []))
    _warn(world)
    assert _open(world, customer) == [86_400]


def test_who_has_enough_is_not_even_looked_at(world: World, database: Database) -> None:
    price, (_, gpus) = world.price(PRICE), world.host(gpus=3)
    rich, poor, credited = (world.customer(balance_micro=MICRO * n) for n in (200_000, 1000, 200_000))
    for customer, gpu in zip((rich, poor, credited), gpus, strict=True):
        world.start(customer, price, (gpu,))
    with database.session() as session:
        found = load_spending(session, grace_s=GRACE_S, now=world.now)
    assert [each.customer_id for each in found] == [poor.id]
    world.database.transact(lambda session: set_thresholds(session, credited.id, [10 * 86_400]))
    with database.session() as session:
        found = load_spending(session, grace_s=GRACE_S, now=world.now)
    assert [each.customer_id for each in found] == [poor.id, credited.id], "it wants to know ten days before"


def test_nothing_ends_while_the_money_lasts(world: World) -> None:
    customer, (_, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=2)
    price = world.price(PRICE)
    for gpu in gpus:
        world.start(customer, price, (gpu,))
    assert _end_unpaid(world) == 0


def test_what_can_not_be_paid_for_ends_in_order_with_its_grace(world: World, database: Database) -> None:
    """Preemptible first, then by priority, then the youngest; what comes back lets the others run on."""
    price, (host, gpus) = world.price(PRICE), world.host(gpus=4)
    customer = world.customer(balance_micro=4 * (150 * MICRO + 1))
    leases = []
    for gpu in gpus:
        leases.append(world.start(customer, price, (gpu,)))
        world.pass_time(1000)
    first, low, preemptible, young = leases
    for lease in leases:
        _change(world, lease, priority=100 if lease is low else 500)
    _change(world, preemptible, preemptible=True)
    order, ended_at = [preemptible, low, young, first], []
    for _ in range(150):
        for lease in leases:
            if _state(world, lease)[0] == "active":
                world.renew(lease)
        for _ in range(_end_unpaid(world)):
            lease = order[len(ended_at)]
            assert _state(world, lease) == ("releasing", EndReason.UNPAID)
            ended_at.append(world.now)
        assert [_state(world, lease)[0] for lease in order[len(ended_at) :]] == ["active"] * (4 - len(ended_at))
        assert world.balance(customer).available_micro >= 0
        world.pass_time(2000)
        for lease, told in zip(order, ended_at, strict=False):
            if world.now - told == timedelta(seconds=GRACE_S) and _state(world, lease)[0] == "releasing":
                window = world.window(lease, lease.starts_ms, world.now_ms)
                world.deliver(host.id, window)
                _settle(world, lease)
    assert len(ended_at) == 4
    assert ended_at[-1] - ended_at[0] >= timedelta(seconds=20), "each end lets the others run on"
    found = world.balance(customer)
    assert found.held_micro == 0
    assert 0 <= found.available_micro <= 40 * MICRO, "nearly all of it was used"
    with database.session() as session:
        assert check(session) == []


def _settle(world: World, lease: Lease) -> None:
    """Its host confirms the end, with all its proof delivered."""

    def work(session: Session) -> None:
        row = session.get_one(Allocation, lease.allocation_id, with_for_update=True)
        ends = (LeaseEnd(world.now_ms, exit_code=0, last_window=None),)
        ending = Ending(row.id, row.generation, row.run_until, ran=True, ends=ends, host_lost=False)
        transitions.move(session, row, AllocationState.RELEASED, actor="test")
        settle_holds(session, [ending], now=world.now)

    world.database.transact(work)


def test_a_grace_is_paid_for_before_others_spend_it(world: World) -> None:
    price, (_, gpus) = world.price(PRICE), world.host(gpus=1)
    customer = world.customer(balance_micro=100 * MICRO + 1)
    lease = world.place(world.queue(customer, gpus=1), price, gpus, limits=1)
    assert lease is not None
    _change(world, lease, grace_s=50)
    world.pass_time(29_000)
    assert _end_unpaid(world) == 0
    world.pass_time(1000)
    assert _end_unpaid(world) == 1, "70 s before the end of the money: 50 of grace, 20 to be told"
    assert _leavers_covered_ms(world, customer) == [50_000], "30 s were covered, more than half of it"
    assert world.balance(customer).available_micro == 20 * MICRO


def test_who_ends_takes_no_more_than_its_grace_from_those_that_run_on(world: World) -> None:
    customer = world.customer(balance_micro=(60 + 60 + 1120) * MICRO + 2)
    first, second = _covered_for_a_minute(world, customer, world.price(PRICE), leases=2)
    _change(world, first, preemptible=True, grace_s=600)
    assert _end_unpaid(world) == 1
    assert (_state(world, first), _state(world, second)[0]) == (("releasing", EndReason.UNPAID), "active")
    assert _leavers_covered_ms(world, customer) == [600_000]
    assert world.balance(customer).available_micro == 580 * MICRO, "as was planned for the second"
    for _ in range(60):
        world.pass_time(10_000)
        assert world.renew(second) > world.now, "it is paid for"
        assert _end_unpaid(world) == 0
    world.pass_time(10_000)
    assert world.renew(second) == world.now + timedelta(seconds=30)
    assert _end_unpaid(world) == 1, "with its grace"


def _leavers_covered_ms(world: World, customer: Customer) -> list[int]:
    with world.database.session() as session:
        [found] = load_spending(session, grace_s=GRACE_S, now=world.now, customer_ids=[customer.id])
    return [leaver.covers_until_ms - world.now_ms for leaver in found.leavers]


def _covered_for_a_minute(world: World, customer: Customer, price: PriceVersion, *, leases: int) -> list[Lease]:
    _, gpus = world.host(gpus=leases)
    placed = [world.place(world.queue(customer, gpus=1), price, (gpu,), limits=1) for gpu in gpus]
    return [lease for lease in placed if lease is not None]


def test_one_that_fails_keeps_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    customer = world.customer(balance_micro=3 * (60 * MICRO + 1))
    leases = _covered_for_a_minute(world, customer, world.price(PRICE), leases=3)
    world.pass_time(45_000)

    def fails_for_the_first(session: Session, allocation: Allocation, **values: Any) -> None:  # Any: passed on
        if allocation.id == leases[2].allocation_id:
            raise ValueError("spoiled")
        request_end(session, allocation, **values)

    monkeypatch.setattr(unpaid, "request_end", fails_for_the_first)
    assert _end_unpaid(world) == 2
    assert [_state(world, lease)[0] for lease in leases] == ["releasing", "releasing", "active"]
    assert f"allocation {leases[2].allocation_id} is not told to end" in caplog.text
    monkeypatch.setattr(unpaid, "request_end", request_end)
    assert _end_unpaid(world) == 1, "it is tried again"


def test_a_turn_has_an_end_and_the_customers_share_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    price, customers = world.price(PRICE), [world.customer(balance_micro=3 * (60 * MICRO + 1)) for _ in range(2)]
    leases = [_covered_for_a_minute(world, customer, price, leases=3) for customer in customers]
    world.pass_time(45_000)

    def told() -> list[int]:
        return [sum(_state(world, lease)[0] == "releasing" for lease in of_one) for of_one in leases]

    monkeypatch.setattr(unpaid, "LONGEST_S", 0.0)
    assert (_end_unpaid(world), told()) == (1, [1, 0]), "one in any case"
    monkeypatch.setattr(unpaid, "LONGEST_S", 60.0)
    monkeypatch.setattr(unpaid, "END_LIMIT", 2)
    assert (_end_unpaid(world), told()) == (2, [2, 1])


def test_over_http(app_client: TestClient, tenant: Tenant, database: Database) -> None:
    world = World(database, now=utc_now())
    _, gpus = world.host(gpus=1)
    world.top_up(tenant.customer, 500 * MICRO)
    world.start(tenant.customer, world.price(PRICE), gpus)
    own = app_client.put(f"{BILLING}/warn-before", headers=tenant.owner.headers, json={"warn_before_s": [1800]})
    assert (own.status_code, own.json()["warn_before_s"]) == (200, [1800])
    _warn(world)
    found = app_client.get(f"{BILLING}/run-time", headers=tenant.member.headers).json()
    assert found["spending_micro_per_hour"] == PRICE
    assert found["available_micro"] == 380 * MICRO - 1
    left = datetime.fromisoformat(found["runs_out_at"]) - world.now
    assert timedelta(seconds=498) < left <= timedelta(seconds=500)
    assert [each["threshold_s"] for each in found["warnings"]] == [600, 1800, 3600, 86_400]
    listed = app_client.get(f"{BILLING}/warnings", headers=tenant.member.headers).json()["items"]
    assert sorted(each["threshold_s"] for each in listed) == [600, 1800, 3600, 86_400]
    for wrong in ([59], [31 * 86_400], [60] * 11):
        answer = app_client.put(f"{BILLING}/warn-before", headers=tenant.owner.headers, json={"warn_before_s": wrong})
        assert answer.status_code == 422, wrong
    member = app_client.put(f"{BILLING}/warn-before", headers=tenant.member.headers, json={"warn_before_s": []})
    assert member.status_code == 403
