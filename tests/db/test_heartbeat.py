"""Heartbeats renew leases of the current generation as far as they are paid for, and move environments."""

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.clock import from_ms, to_ms, utc_now
from api.db import Database
from api.errors import Conflict
from api.machines.heartbeat import receive
from api.machines.registration import register
from api.machines.tables import Gpu, Host
from api.settings import Settings
from scheduler.host_protocol import ContainerState, EndNotice, GpuFacts, GpuReading, Heartbeat, HeldLease, HostFacts
from scheduler.states import AdminState, AllocationState, DeviceStatus, EndReason, EnvironmentDesired, EnvironmentState
from tests.db.environment_world import BOOT, World, report
from tests.db.fleet import Fleet


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return World.make(Fleet(database), settings)


def test_a_lease_is_renewed_by_its_limit(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    held = world.allocation(lab)
    now = utc_now() + timedelta(seconds=100)
    (verdict,) = world.beat(host, held, now=now).verdicts
    assert not verdict.end
    limit = timedelta(seconds=held.disconnect_s)
    assert abs(from_ms(verdict.run_until_ms) - (now + limit)) < timedelta(seconds=2)
    assert abs(world.allocation(lab).run_until - from_ms(verdict.run_until_ms)) < timedelta(milliseconds=2)


def test_a_lease_that_was_renewed_just_now_is_left_alone(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    renewed = utc_now() + timedelta(seconds=100)
    world.beat(host, world.allocation(lab), now=renewed)
    held = world.allocation(lab)
    limit = timedelta(seconds=held.disconnect_s)
    for passed, moved in ((0.04 * limit, False), (0.06 * limit, True)):
        (verdict,) = world.beat(host, held, now=renewed + passed).verdicts
        assert (verdict.end, verdict.run_until_ms) == (
            False,
            to_ms(renewed + limit + (passed if moved else 0 * passed)),
        )


def test_a_renewal_never_takes_back_what_was_promised(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    world.beat(host, world.allocation(lab), now=utc_now() + timedelta(seconds=60))
    promised = world.allocation(lab).run_until
    world.beat(host, world.allocation(lab), now=utc_now())
    assert world.allocation(lab).run_until == promised


@pytest.mark.parametrize("off_by", [-1, 1])
def test_another_generation_must_end(world: World, off_by: int) -> None:
    host, lab = world.host(), world.create()
    world.place()
    held = world.allocation(lab)
    beat = Heartbeat(BOOT, "d1", (HeldLease(str(held.uid), held.generation + off_by),), (), (), 0)
    (verdict,) = receive(world.fleet.database, world.settings, host_id=host.id, beat=beat).verdicts
    assert verdict.end
    assert world.allocation(lab).run_until == held.run_until


def test_another_host_and_unknown_leases_must_end(world: World) -> None:
    world.host("h1", gpus=1)
    lab = world.create()
    world.place()
    elsewhere = world.host("h2")
    (verdict,) = world.beat(elsewhere, world.allocation(lab)).verdicts
    assert verdict.end
    beat = Heartbeat(BOOT, "d1", (HeldLease("no uuid", 1),), (), (), 0)
    assert receive(world.fleet.database, world.settings, host_id=elsewhere.id, beat=beat).verdicts[0].end


def test_a_lease_that_ends_is_not_renewed(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    world.stop(lab)
    (verdict,) = world.beat(host, world.allocation(lab)).verdicts
    assert verdict.end


def test_what_has_a_grace_is_renewed_within_it_and_told_why_it_ends(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    world.stop(lab)
    with world.fleet.database.session() as session, session.begin():
        session.get_one(Allocation, world.allocation(lab).id).grace_s = 120
    left = world.allocation(lab)
    assert left.releasing_at is not None
    began, limit = left.releasing_at, timedelta(seconds=left.disconnect_s)
    for passed_s in (10, 100):
        now = began + timedelta(seconds=passed_s)
        (verdict,) = world.beat(host, left, now=now).verdicts
        assert verdict.end and verdict.reason == left.end_reason
        assert verdict.grace_s == pytest.approx(120 - passed_s, abs=0.01)
        assert verdict.run_until_ms == pytest.approx(to_ms(now + limit), abs=1100)
    for passed_s in (150, 150 + left.disconnect_s):
        (verdict,) = world.beat(host, left, now=began + timedelta(seconds=passed_s)).verdicts
    assert verdict.grace_s == 0 and verdict.run_until_ms <= to_ms(began + timedelta(seconds=120) + limit) + 1100


def test_the_lease_stands_still_when_the_money_ends_and_then_the_allocation_ends(
    database: Database, settings: Settings
) -> None:
    # 2 dollars an hour: one dollar holds for half an hour, beyond the first 20 minutes that placing holds.
    world = World.make(Fleet(database), settings, dollars=1)
    host, lab = world.host(), world.create()
    world.place()
    for _ in range(4):
        promised = world.allocation(lab).run_until
        assert promised is not None
        world.beat(host, world.allocation(lab), now=promised - timedelta(seconds=1))
        if world.allocation(lab).run_until == promised:
            break
    assert world.allocation(lab).run_until == promised
    assert promised < utc_now() + timedelta(minutes=30)
    (verdict,) = world.beat(host, world.allocation(lab), now=promised + timedelta(seconds=1)).verdicts
    assert verdict.end
    ended = world.allocation(lab)
    assert (ended.state, ended.end_reason) == (AllocationState.RELEASING, EndReason.UNPAID)


def test_a_host_cut_off_for_too_long_loses_its_leases_though_paid_for(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    run_until = world.allocation(lab).run_until
    assert run_until is not None
    (verdict,) = world.beat(host, world.allocation(lab), now=run_until + timedelta(seconds=1)).verdicts
    assert verdict.end
    assert world.allocation(lab).end_reason == EndReason.EXPIRED


def test_a_running_container_binds_the_environment_to_its_host(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    held = world.allocation(lab)
    world.beat(host, held, containers=(report(held, ContainerState.RUNNING, generation=held.generation + 1),))
    assert world.environment(lab).observed == EnvironmentState.QUEUED
    world.beat(host, held, containers=(report(held, ContainerState.RUNNING),))
    assert world.environment(lab).observed == EnvironmentState.STARTING
    assert world.environment(lab).host_id == host.id


@pytest.mark.parametrize(
    ("facts", "end_reason", "error"),
    [
        ({"exit_code": 0}, EndReason.COMPLETED, None),
        ({"exit_code": 3}, EndReason.FAILED, "exit code 3"),
        ({"exit_code": 137, "oom_killed": True}, EndReason.FAILED, "memory"),
    ],
)
def test_an_exited_container_ends_its_allocation_at_once(
    world: World, facts: dict[str, object], end_reason: EndReason, error: str | None
) -> None:
    host, lab = world.host(), world.create()
    world.place()
    held = world.allocation(lab)
    world.beat(host, held, containers=(report(held, ContainerState.RUNNING),))
    world.ready(lab)
    reply = world.beat(host, held, containers=(report(held, ContainerState.EXITED, **facts),))
    assert reply.verdicts[0].end
    after, allocation = world.environment(lab), world.allocation(lab)
    assert (after.desired, after.observed) == (EnvironmentDesired.STOPPED, EnvironmentState.STOPPING)
    assert (allocation.state, allocation.end_reason) == (AllocationState.RELEASING, end_reason)
    assert (error is None and after.last_error is None) or (error is not None and error in str(after.last_error))


def test_what_the_host_ended_by_itself_is_told_to_its_owner(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    held = world.allocation(lab)
    world.beat(host, held, containers=(report(held, ContainerState.RUNNING),))
    world.ready(lab)
    stale = EndNotice(str(held.uid), held.generation - 1, "an older lease's")
    world.beat(host, held, endings=(stale,))
    assert world.allocation(lab).state == AllocationState.ACTIVE
    ending = EndNotice(str(held.uid), held.generation, "It used 12 GiB of disk.")
    killed = report(held, ContainerState.EXITED, exit_code=137)
    for _ in range(2):  # it is sent until it was heard
        world.beat(host, held, containers=(killed,), endings=(ending,))
        allocation, after = world.allocation(lab), world.environment(lab)
        assert (allocation.end_reason, allocation.end_detail) == (EndReason.FAILED, "It used 12 GiB of disk.")
        assert after.last_error == "It used 12 GiB of disk."
        assert (after.desired, after.observed) == (EnvironmentDesired.STOPPED, EnvironmentState.STOPPING)


def test_an_allocation_that_its_host_has_forgotten_ends(world: World) -> None:
    host, lab = world.host(), world.create()
    world.place()
    world.beat(host)
    assert world.allocation(lab).state == AllocationState.ACTIVE  # the grant may still be on its way
    world.beat(host, now=utc_now() + timedelta(seconds=20))
    assert world.allocation(lab).end_reason == EndReason.HOST_LOST


def test_readings_and_problems_are_kept(world: World) -> None:
    host = world.host(gpus=2)
    readings = (
        GpuReading("GPU-h1-0", simulated=False, healthy=True, temperature_c=41),
        GpuReading("GPU-h1-1", simulated=False, healthy=False, error="fell off the bus"),
        GpuReading("GPU-elsewhere", simulated=False, healthy=True),
    )
    world.beat(host, readings=readings, problems=("docker does not answer",))
    first, second = world.fleet.rows(Gpu)
    assert (first.reading["temperature_c"], first.reading["power_mw"]) == (41, None)
    assert (first.healthy, second.healthy) == (True, False)
    assert world.host_row(host).device_status == DeviceStatus.DEGRADED
    world.beat(host)
    assert world.host_row(host).device_status == DeviceStatus.ONLINE


def facts(boot_id: str, *uuids: str) -> HostFacts:
    gpus = tuple(GpuFacts(index, uuid, "NVIDIA A100", 2**36) for index, uuid in enumerate(uuids))
    return HostFacts(
        boot_id, "h1", "10.0.0.1", "Debian", "6.1", 8, 2**36, 2**40, "20.10", "watcher", simulated=True, gpus=gpus
    )


def put(world: World, host_id: int, what: HostFacts) -> None:
    world.fleet.database.transact(lambda session: register(session, world.settings, host_id=host_id, facts=what))


def test_a_new_boot_ends_what_the_old_one_ran(world: World) -> None:
    host, lab = world.host(gpus=1), world.create()
    world.place()
    put(world, host.id, facts(BOOT, "GPU-h1-0"))
    assert world.allocation(lab).state == AllocationState.ACTIVE
    with pytest.raises(Conflict, match="Register"):
        world.beat(host, boot_id="boot-2")
    put(world, host.id, facts("boot-2", "GPU-h1-0"))
    assert world.allocation(lab).end_reason == EndReason.HOST_LOST
    world.beat(host, boot_id="boot-2")


def test_devices_vanish_return_and_belong_to_one_host(world: World) -> None:
    host = world.host(gpus=2)
    put(world, host.id, facts(BOOT, "GPU-h1-1", "GPU-new"))
    present = {gpu.uuid: gpu.present for gpu in world.fleet.rows(Gpu)}
    assert present == {"GPU-h1-0": False, "GPU-h1-1": True, "GPU-new": True}
    other = world.host("h2", gpus=0)
    with pytest.raises(Conflict, match="another host"):
        put(world, other.id, facts(BOOT, "GPU-new"))
    put(world, other.id, facts(BOOT, "GPU-h1-0"))  # it was taken out of the first host
    assert {gpu.uuid for gpu in world.fleet.rows(Gpu) if gpu.host_id == other.id} == {"GPU-h1-0"}


def test_hosts_are_told_where_all_hosts_are_when_that_changes(world: World) -> None:
    first, second, third = (world.host(name) for name in ("h1", "h2", "h3"))

    def move(host: Host, address: str | None, admin_state: AdminState = AdminState.AVAILABLE) -> None:
        def change(session: Session) -> None:
            row = session.get_one(Host, host.id)
            row.address, row.admin_state = address, admin_state

        world.fleet.database.transact(change)

    move(first, "192.0.2.10")
    move(second, "192.0.2.9")
    move(third, None)
    told = world.beat(first).peers
    assert told is not None and told.addresses == ("192.0.2.10", "192.0.2.9")
    assert world.beat(first, peers_version=told.version).peers is None
    move(third, "192.0.2.9")  # on the same machine: nothing new
    assert world.beat(second, peers_version=told.version).peers is None
    move(third, "192.0.2.11")
    more = world.beat(first, peers_version=told.version).peers
    assert more is not None and more.addresses == ("192.0.2.10", "192.0.2.11", "192.0.2.9")
    move(third, "192.0.2.11", AdminState.RETIRED)
    assert world.beat(first, peers_version=more.version).peers == told
