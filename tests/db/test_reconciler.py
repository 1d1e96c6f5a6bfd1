"""The reconciler brings environments to what is desired, whatever the Hub and the hosts do meanwhile."""

import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select

from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.db import Database
from api.environments import steps
from api.environments.hub_client import HubServer
from api.environments.reconciler import EnvironmentReconciler
from api.environments.tables import Environment
from api.settings import Settings
from scheduler.host_protocol import ContainerState
from scheduler.states import AllocationState, EndReason, EnvironmentDesired, EnvironmentState
from tests.db.environment_world import RecordingHosts, RecordingHub, World, report
from tests.db.fleet import Fleet


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return World.make(Fleet(database), settings)


@pytest.fixture
def hub() -> RecordingHub:
    return RecordingHub()


@pytest.fixture
def hosts() -> RecordingHosts:
    return RecordingHosts()


@pytest.fixture
def reconciler(world: World, hub: RecordingHub, hosts: RecordingHosts) -> Iterator[EnvironmentReconciler]:
    reconciler = EnvironmentReconciler(world.fleet.database, world.settings, hub, hosts)
    yield reconciler
    reconciler.close()


def drive(reconciler: EnvironmentReconciler, until: Callable[[], bool], *, limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < deadline, "it did not come to that"
        reconciler.run_once()
        assert reconciler.wait_idle(10)
        time.sleep(0.02)


def run(world: World, reconciler: EnvironmentReconciler, lab: Environment) -> None:
    world.place()
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STARTING)
    world.ready(lab)


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


def preempt(world: World, lab: Environment) -> Allocation:
    """What the controller does with an allocation that is to give way."""
    given_up = world.allocation(lab)
    world.fleet.end(given_up, EndReason.PREEMPTED)
    return given_up


def test_an_environment_that_gave_way_is_queued_again_with_its_volume(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler
) -> None:
    host = world.host()
    lab = world.create(preemptible=True, priority=3)
    run(world, reconciler, lab)
    hub.calls.clear()
    before = preempt(world, lab)
    drive(reconciler, lambda: ("stop", "lab") in hub.calls)
    stopping = world.environment(lab)
    assert (stopping.desired, stopping.observed) == (EnvironmentDesired.RUNNING, EnvironmentState.STOPPING)
    world.hub_stops(lab)  # as the Hub does with the container of a server that it was told to stop
    world.release()
    drive(reconciler, lambda: world.allocation(lab).id != before.id)
    waiting, queued = world.environment(lab), world.allocation(lab)
    assert (waiting.desired, waiting.observed) == (EnvironmentDesired.RUNNING, EnvironmentState.QUEUED)
    assert waiting.last_error == "It gave way to a request with a higher claim; queued again."
    assert (queued.state, queued.bound_host_id, queued.home_volume) == ("queued", host.id, before.home_volume)
    assert (queued.preemptible, queued.priority) == (True, 3)
    assert reconciler.run_once() == 0  # it waits
    run(world, reconciler, lab)
    again = world.environment(lab)
    assert (again.observed, again.last_error) == (EnvironmentState.RUNNING, None)


@pytest.mark.parametrize("delete", [False, True])
def test_what_its_user_stops_while_it_gives_way_stays_stopped(
    world: World, hub: RecordingHub, reconciler: EnvironmentReconciler, delete: bool
) -> None:
    world.host()
    lab = world.create(preemptible=True)
    run(world, reconciler, lab)
    before = preempt(world, lab)
    drive(reconciler, lambda: ("stop", "lab") in hub.calls)
    world.stop(lab, delete=delete)
    world.release()
    wanted = EnvironmentState.DELETED if delete else EnvironmentState.STOPPED
    drive(reconciler, lambda: world.environment(lab).observed == wanted)
    assert world.environment(lab).last_error is None
    assert world.allocation(lab).id == before.id


def test_what_gave_way_and_can_not_run_any_more_stops_and_says_so(
    world: World, reconciler: EnvironmentReconciler
) -> None:
    host, lab = world.host(), world.create(preemptible=True)
    run(world, reconciler, lab)
    preempt(world, lab)
    world.release()
    world.retire(host)
    drive(reconciler, lambda: world.environment(lab).observed == EnvironmentState.STOPPED)
    after = world.environment(lab)
    assert after.desired == EnvironmentDesired.STOPPED
    assert after.last_error == "It had to give way to a request with a higher claim."


def test_a_full_queue_does_not_refuse_what_gave_way(world: World, reconciler: EnvironmentReconciler) -> None:
    world.host()
    lab = world.create(preemptible=True)
    run(world, reconciler, lab)
    world.allow(queued=0)
    before = preempt(world, lab)
    world.release()
    drive(reconciler, lambda: world.allocation(lab).id != before.id)
    assert world.environment(lab).observed == EnvironmentState.QUEUED


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
