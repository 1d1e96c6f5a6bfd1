"""The reconciler brings environments to what is desired, whatever the Hub and the hosts do meanwhile."""

import threading
import time

import pytest
from sqlalchemy import select

from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.environments import steps
from api.environments.hub_client import HubServer
from api.environments.reconciler import EnvironmentReconciler
from scheduler.host_protocol import ContainerState
from scheduler.states import AllocationState, EndReason, EnvironmentDesired, EnvironmentState
from tests.db.environment_world import RecordingHosts, RecordingHub, World, report
from tests.db.reconciling.driving import drive, run
from tests.waiting import wait_for


def test_an_environment_from_queue_to_volume_and_back(
    world: World, hub: RecordingHub, hosts: RecordingHosts, reconciler: EnvironmentReconciler
) -> None:
    host, lab = world.host(), world.create()
    assert reconciler.run_once() == 0  # it waits in the queue: the Hub hears nothing of it
    run(world, reconciler, lab)
    assert world.environment(lab).observed == EnvironmentState.RUNNING
    assert world.environment(lab).host_id == host.id
    assert hub.calls[0] == ("start", "lab")
    assert reconciler.run_once() == 0

    world.stop(lab)
    assert world.environment(lab).observed == EnvironmentState.STOPPING
    drive(reconciler, lambda: ("stop", "lab") in hub.calls)
    assert world.environment(lab).observed == EnvironmentState.STOPPING  # the GPUs are not free yet
    world.release()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STOPPED)

    first = world.allocation(lab)
    world.start(lab)
    again = world.allocation(lab)
    assert again.id != first.id
    assert again.bound_host_id == host.id  # its /home lies there
    assert again.home_volume == first.home_volume == f"rg-home-{lab.uid}"
    assert again.container_name != first.container_name
    run(world, reconciler, lab)

    world.stop(lab, delete=True)
    world.release()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.DELETED)
    assert hosts.calls == [(str(host.uid), "delete_volume", {"volume": f"rg-home-{lab.uid}"})]
    assert ("remove", "lab") in hub.calls
    world.create("lab")  # its name is free again


def test_nothing_is_lost_while_the_hub_is_down(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    lab = world.create()
    world.place()
    hub.down = True
    drive(reconciler, lambda: len(hub.calls) >= 3)
    assert world.environment(lab).observed == EnvironmentState.QUEUED
    hub.down = False
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STARTING)


def test_what_never_settles_keeps_nobody_from_their_turn(
    world: World,
    hosts: RecordingHosts,
    reconciler: EnvironmentReconciler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More deletions on a host that is away than one look takes in."""
    world.host()
    for name in ("one", "two"):
        lab = world.create(name)
        run(world, reconciler, lab)
        world.stop(lab, delete=True)
        world.release()
    hosts.unreachable = True
    drive(reconciler, lambda: len(hosts.calls) >= 4)
    monkeypatch.setattr(steps, "BATCH", 2)
    last = world.create("last")
    world.place()
    drive(reconciler, lambda: world.environment(last).observed == EnvironmentState.STARTING)


def test_what_fails_time_and_again_comes_last(
    world: World,
    hub: RecordingHub,
    hosts: RecordingHosts,
    reconciler: EnvironmentReconciler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is one worker, and an older deletion whose host is away is due again."""
    world.host()
    lab = world.create("older")
    run(world, reconciler, lab)
    world.stop(lab, delete=True)
    world.release()
    hosts.unreachable = True
    drive(reconciler, lambda: len(hosts.calls) == 1)
    world.create("newer")
    world.place()
    monkeypatch.setattr("api.environments.reconciler.WORKERS", 1)
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 60)
    assert reconciler.run_once() == 1
    assert reconciler.wait_idle(10)
    assert ("start", "newer") in hub.calls


def test_hosts_that_hang_do_not_take_all_workers(
    world: World, hub: RecordingHub, hosts: RecordingHosts, reconciler: EnvironmentReconciler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two workers, two deletions on a host that takes calls and answers none, and a start that is younger."""
    world.host()
    labs = [world.create(name) for name in ("one", "two")]
    for lab in labs:
        run(world, reconciler, lab)
        world.stop(lab)
    world.release()
    drive(reconciler, lambda: {each.observed for each in world.rows()} == {"stopped"})
    for lab in labs:
        world.stop(lab, delete=True)
    world.create("new")
    world.place()
    hosts.hangs = threading.Event()
    monkeypatch.setattr("api.environments.reconciler.WORKERS", 2)
    monkeypatch.setattr("api.environments.reconciler.DELETIONS", 1)
    try:
        assert reconciler.run_once() == 2
        wait_for(lambda: ("start", "new") in hub.calls, timeout_s=10, what="the start")
    finally:
        hosts.hangs.set()
    drive(reconciler, lambda: {each.observed for each in world.rows()} == {"deleted", "starting"})


def test_stopping_does_not_wait_for_a_hub_that_is_down(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    lab = world.create()
    run(world, reconciler, lab)
    hub.down = True
    world.stop(lab)
    assert world.allocation(lab).state == AllocationState.RELEASING
    world.release()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STOPPED)

    hub.down = False  # it comes back with the old server still on its books: the next start ends that first
    hub.servers["lab"] = HubServer(ready=True, pending=None)
    world.start(lab)
    world.place()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STARTING)
    assert hub.servers["lab"] == HubServer(ready=False, pending="spawn")


def test_a_server_that_never_comes_up_fails_after_a_few_tries(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    lab = world.create()
    world.place()
    hub.spawn_fails = True
    drive(reconciler, lambda: world.allocation(lab).state == AllocationState.RELEASING)
    assert hub.calls.count(("start", "lab")) == 3
    world.release()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.FAILED)
    after = world.environment(lab)
    assert (after.desired, after.last_error) == (EnvironmentDesired.STOPPED, "spawn failed")


def test_a_server_that_the_hub_gave_up_is_started_again(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    lab = world.create()
    world.place()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STARTING)
    hub.servers.clear()
    drive(reconciler, lambda: hub.calls.count(("start", "lab")) == 2)
    hub.servers["lab"] = HubServer(ready=True, pending=None)
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.RUNNING)


def test_a_start_that_the_hub_gave_up_is_nobodys_stop(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    lab = world.create()
    world.place()
    for start in (1, 2, 3):
        drive(reconciler, lambda start=start: hub.calls.count(("start", "lab")) == start)  # type: ignore[misc]
        drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STARTING)
        world.gives_up(lab, f"no answer, {start}")
        after = world.environment(lab)
        assert (after.desired, after.observed) == (EnvironmentDesired.RUNNING, EnvironmentState.STARTING)
        assert world.allocation(lab).state == AllocationState.ACTIVE
        hub.servers.clear()
    drive(reconciler, lambda: world.allocation(lab).state == AllocationState.RELEASING)
    world.release()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.FAILED)
    assert world.environment(lab).last_error == "no answer, 3"
    assert hub.calls.count(("start", "lab")) == 3


def test_a_start_that_came_to_nothing_once_is_forgotten_when_it_runs(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    lab = world.create()
    world.place()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STARTING)
    world.gives_up(lab, "no answer")
    world.ready(lab)
    after = world.environment(lab)
    assert (after.observed, after.last_error) == (EnvironmentState.RUNNING, None)
    world.gives_up(lab, "of an older run", container_name="rg-env-older")
    assert world.environment(lab).observed == EnvironmentState.RUNNING


@pytest.mark.parametrize(
    ("end_reason", "observed", "said"),
    [
        (EndReason.UNPAID, EnvironmentState.STOPPED, "balance"),
        (EndReason.HOST_LOST, EnvironmentState.FAILED, "host was lost"),
        (EndReason.CANCELLED, EnvironmentState.STOPPED, None),
    ],
)
def test_an_end_from_elsewhere_is_explained_and_not_undone(
    world: World,
    reconciler: EnvironmentReconciler,
    end_reason: EndReason,
    observed: EnvironmentState,
    said: str | None,
) -> None:
    world.host()
    lab = world.create()
    run(world, reconciler, lab)
    world.fleet.end(world.allocation(lab), end_reason)
    world.release()
    drive(reconciler, lambda: world.environment(lab).observed == observed)
    after = world.environment(lab)
    assert after.desired == EnvironmentDesired.STOPPED
    assert (after.last_error is None) if said is None else (said in str(after.last_error))
    assert reconciler.run_once() == 0


def test_an_environment_that_lost_its_host_before_it_ran_is_queued_again(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    lab = world.create()
    world.place()
    lost = world.allocation(lab)
    world.fleet.end(lost, EndReason.HOST_LOST)
    world.release()
    drive(reconciler, lambda: world.allocation(lab).id != lost.id)
    assert world.allocation(lab).state == AllocationState.QUEUED
    assert world.environment(lab).desired == EnvironmentDesired.RUNNING
    run(world, reconciler, lab)


def test_a_volume_waits_for_its_host(
    world: World, hub: RecordingHub, hosts: RecordingHosts, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    lab = world.create()
    run(world, reconciler, lab)
    world.stop(lab, delete=True)
    world.release()
    hosts.unreachable = True
    drive(reconciler, lambda: len(hosts.calls) >= 2)
    assert world.environment(lab).observed == EnvironmentState.STOPPED
    hosts.unreachable = False
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.DELETED)


def test_a_second_reconciler_changes_nothing_twice(
    world: World, hub: RecordingHub, hosts: RecordingHosts, reconciler: EnvironmentReconciler
) -> None:
    host, lab = world.host(), world.create()
    world.place()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STARTING)
    successor = EnvironmentReconciler(world.fleet.database, world.settings, hub, hosts)
    try:
        held = world.allocation(lab)
        world.beat(host, held, containers=(report(held, ContainerState.RUNNING),))
        world.ready(lab)
        successor.run_once()
        assert successor.wait_idle(10)
    finally:
        successor.close()
    assert hub.calls.count(("start", "lab")) == 1
    with world.fleet.database.session() as session:
        assert len(session.scalars(select(Allocation)).all()) == 1


def test_asking_for_an_end_twice_changes_nothing(world: World) -> None:
    world.host()
    lab = world.create()
    world.place()
    world.stop(lab)
    before = world.allocation(lab)

    def again(session: object) -> None:
        row = session.get_one(Allocation, before.id)  # type: ignore[attr-defined]
        request_end(session, row, end_reason=EndReason.FAILED, actor="cli")  # type: ignore[arg-type]

    world.fleet.database.transact(again)
    assert world.allocation(lab).end_reason == before.end_reason


def test_a_start_that_somebody_began_at_the_hub_is_left_alone(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    world.host()
    world.create()
    hub.servers["lab"] = HubServer(ready=False, pending="spawn")
    world.place()
    drive(reconciler, lambda: hub.calls.count(("start", "lab")) == 2)
    assert ("stop", "lab") not in hub.calls
    hub.servers["lab"] = HubServer(ready=True, pending=None)
    drive(reconciler, lambda: ("stop", "lab") in hub.calls)
