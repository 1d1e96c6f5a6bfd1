"""Letting a reconciler work until something has come about."""

import time
from collections.abc import Callable

from api.environments.reconciler import EnvironmentReconciler
from api.environments.tables import Environment
from scheduler.states import EnvironmentState
from tests.db.environment_world import World


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
