"""What becomes of an environment whose allocation gave way to another one."""

import pytest

from api.allocations.tables import Allocation
from api.environments.reconciler import EnvironmentReconciler
from api.environments.tables import Environment
from scheduler.states import EndReason, EnvironmentDesired, EnvironmentState
from tests.db.environment_world import RecordingHub, World
from tests.db.reconciling.driving import drive, run


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
