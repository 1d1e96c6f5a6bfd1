"""Silent hosts: unreachable at once, lost only when no lease can still run (I5)."""

from datetime import datetime, timedelta

import pytest

from api.clock import utc_now
from api.db import Database
from api.machines.liveness import sweep
from api.machines.tables import Host
from api.settings import Settings
from scheduler.states import AllocationState, DeviceStatus, EndReason
from tests.db.environment_world import World
from tests.db.fleet import Fleet


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return World.make(Fleet(database), settings)


def look(world: World, host: Host, now: datetime, *, in_ray: bool = True) -> str:
    ray_alive = {str(host.uid): "node"} if in_ray else {}
    sweep(world.fleet.database, world.settings, ray_alive=ray_alive, now=now)
    return world.host_row(host).device_status


def test_a_host_that_left_ray_is_degraded_until_it_is_back(world: World) -> None:
    host = world.host()
    assert look(world, host, utc_now(), in_ray=False) == DeviceStatus.DEGRADED
    world.beat(host)
    assert world.host_row(host).device_status == DeviceStatus.DEGRADED  # a heartbeat does not bring Ray back
    assert look(world, host, utc_now()) == DeviceStatus.ONLINE
    assert world.host_row(host).ray_node_id == "node"


def test_a_silent_host_keeps_its_allocations_until_their_limit_and_the_margin(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    world.beat(host, world.allocation(lab))
    beat_at, run_until = world.host_row(host).heartbeat_at, world.allocation(lab).run_until
    assert beat_at is not None and run_until is not None
    second = timedelta(seconds=1)
    assert look(world, host, beat_at + timedelta(seconds=8)) == DeviceStatus.ONLINE
    assert look(world, host, beat_at + timedelta(seconds=9)) == DeviceStatus.UNREACHABLE
    margin = timedelta(seconds=world.settings.lost_margin_s)
    assert look(world, host, run_until + margin) == DeviceStatus.UNREACHABLE
    assert world.allocation(lab).state == AllocationState.ACTIVE
    assert look(world, host, run_until + margin + second) == DeviceStatus.LOST
    ended = world.allocation(lab)
    assert (ended.state, ended.end_reason) == (AllocationState.RELEASING, EndReason.HOST_LOST)


def test_an_allocation_that_ends_already_counts_until_its_limit(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    world.stop(lab)
    run_until = world.allocation(lab).run_until
    assert run_until is not None
    look(world, host, utc_now() + timedelta(seconds=60))
    assert look(world, host, run_until) == DeviceStatus.UNREACHABLE
    assert look(world, host, run_until + timedelta(seconds=16)) == DeviceStatus.LOST
    assert world.allocation(lab).end_reason == EndReason.COMPLETED  # its own reason stays


def test_a_host_that_returns_is_seen_at_its_next_heartbeat(world: World) -> None:
    host = world.host()
    later = utc_now() + timedelta(seconds=60)
    assert look(world, host, later) == DeviceStatus.LOST
    world.beat(host)
    assert look(world, host, utc_now()) == DeviceStatus.ONLINE
