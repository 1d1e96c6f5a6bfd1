"""Enforced ends: time limits and the ends of reservations hold, whoever is cut off."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from api.allocations.expiry import end_expired
from api.allocations.tables import Allocation
from api.clock import from_ms, utc_now
from api.db import Database
from api.machines.tables import Gpu, Host
from api.reservations.tables import Reservation, ReservationDevice
from api.settings import Settings
from scheduler.ports import Placed
from scheduler.states import AllocationState, EndReason
from tests.db.environment_world import World
from tests.db.fleet import GIB, Fleet, admit, refusal

LIMIT = timedelta(seconds=900)
SECOND = timedelta(seconds=1)


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return World.make(Fleet(database), settings)


@pytest.fixture
def host(world: World) -> Host:
    return world.host()


def start(world: World, host: Host, *indexes: int, **asked: object) -> Allocation:
    allocation = world.fleet.submit(world.owner, **asked)
    store = world.fleet.lead()
    admit(store, world.fleet.placement(allocation, host, *indexes or (0,)))
    assert store.record([Placed(allocation.id, 1)]) == [True]
    return world.fleet.allocation(allocation.id)


def book(world: World, host: Host, starts_at: datetime, ends_at: datetime) -> Reservation:
    """Of the first two devices of the host."""
    customer, workspace, user = world.owner

    def work(session: Session) -> Reservation:
        row = Reservation(
            customer_id=customer.id,
            workspace_id=workspace.id,
            user_id=user.id,
            starts_at=starts_at,
            ends_at=ends_at,
            gpus=2,
            cpu_milli=8000,
            memory_bytes=32 * GIB,
        )
        session.add(row)
        session.flush()
        for gpu in session.query(Gpu).where(Gpu.host_id == host.id, Gpu.index < 2):
            session.add(ReservationDevice(reservation_id=row.id, gpu_id=gpu.id, period=Range(starts_at, ends_at)))
        return row

    return world.fleet.database.transact(work)


def sweep(world: World, now: datetime) -> int:
    return world.fleet.database.transact(lambda session: end_expired(session, now))


def test_what_has_run_for_as_long_as_it_may_is_ended(world: World, host: Host) -> None:
    limited, free = start(world, host, 0, time_limit_s=900), start(world, host, 1)
    assert limited.placed_at is not None
    assert sweep(world, limited.placed_at + LIMIT - SECOND) == 0
    assert sweep(world, limited.placed_at + LIMIT) == 1
    ended = world.fleet.allocation(limited.id)
    assert (ended.state, ended.end_reason) == (AllocationState.RELEASING, EndReason.EXPIRED)
    assert ended.end_detail == "its time limit has passed"
    assert world.fleet.allocation(free.id).state == AllocationState.ACTIVE
    assert sweep(world, limited.placed_at + 2 * LIMIT) == 0


def test_what_is_still_being_placed_is_ended_too(world: World, host: Host) -> None:
    allocation = world.fleet.submit(world.owner, time_limit_s=900)
    admit(world.fleet.lead(), world.fleet.placement(allocation, host, 0))
    assert sweep(world, utc_now() + LIMIT) == 1
    assert world.fleet.allocation(allocation.id).state == AllocationState.RELEASING


def test_no_renewal_goes_beyond_the_limit(world: World, host: Host) -> None:
    """So that a host which is cut off ends it by itself."""
    allocation = start(world, host, time_limit_s=900)
    assert allocation.placed_at is not None
    end = allocation.placed_at + LIMIT
    (verdict,) = world.beat(host, allocation, now=end - timedelta(seconds=700)).verdicts
    assert from_ms(verdict.run_until_ms) < end - timedelta(seconds=99)
    (verdict,) = world.beat(host, allocation, now=end - timedelta(seconds=100)).verdicts
    assert not verdict.end
    assert abs(from_ms(verdict.run_until_ms) - end) < timedelta(milliseconds=2)
    (verdict,) = world.beat(host, allocation, now=end).verdicts
    assert verdict.end
    assert world.fleet.allocation(allocation.id).end_detail == "its time limit has passed"


def test_a_first_promise_is_no_longer_than_the_limit(world: World, host: Host) -> None:
    allocation = start(world, host, time_limit_s=30)
    assert allocation.placed_at is not None and allocation.run_until is not None
    assert abs(allocation.run_until - allocation.placed_at - timedelta(seconds=30)) < SECOND


def test_what_runs_in_a_reservation_ends_with_it(world: World, host: Host) -> None:
    now = utc_now()
    reservation = book(world, host, now - timedelta(hours=1), now + LIMIT)
    allocation = start(world, host, 0, 1, gpus=2, reservation=reservation.uid)
    assert sweep(world, reservation.ends_at - SECOND) == 0
    world.beat(host, allocation, now=reservation.ends_at - timedelta(seconds=600))
    (verdict,) = world.beat(host, allocation, now=reservation.ends_at - timedelta(seconds=100)).verdicts
    assert abs(from_ms(verdict.run_until_ms) - reservation.ends_at) < timedelta(milliseconds=2)
    assert sweep(world, reservation.ends_at) == 1
    ended = world.fleet.allocation(allocation.id)
    assert (ended.end_reason, ended.end_detail) == (EndReason.EXPIRED, "its reservation is over")


@pytest.mark.parametrize("how", ["over", "cancelled"])
def test_what_waits_for_a_reservation_that_is_over_waits_no_more(world: World, host: Host, how: str) -> None:
    now = utc_now()
    reservation = book(world, host, now + LIMIT, now + 2 * LIMIT)
    allocation = world.fleet.submit(world.owner, reservation=reservation.uid)
    assert sweep(world, now + 2 * LIMIT - SECOND) == 0
    if how == "cancelled":
        world.fleet.database.transact(
            lambda session: session.execute(text("update reservations set state = 'cancelled'"))
        )
    assert sweep(world, now if how == "cancelled" else now + 2 * LIMIT) == 1
    ended = world.fleet.allocation(allocation.id)
    assert (ended.state, ended.end_reason) == (AllocationState.RELEASED, EndReason.EXPIRED)


def test_devices_of_a_reservation_are_only_for_what_names_it(world: World, host: Host) -> None:
    now, store = utc_now(), world.fleet.lead()
    reservation = book(world, host, now - LIMIT, now + LIMIT)
    stranger = world.fleet.submit(world.owner)
    assert refusal(store, world.fleet.placement(stranger, host, 1)).code == "no_capacity"
    admit(store, world.fleet.placement(stranger, host, 2))
    mine = world.fleet.submit(world.owner, reservation=reservation.uid)
    assert refusal(store, world.fleet.placement(mine, host, 3)).code == "no_capacity"
    admit(store, world.fleet.placement(mine, host, 1))


def test_a_reservation_that_has_not_begun_keeps_nobody_out(world: World, host: Host) -> None:
    now = utc_now()
    book(world, host, now + LIMIT, now + 2 * LIMIT)
    admit(world.fleet.lead(), world.fleet.placement(world.fleet.submit(world.owner), host, 0))
