"""A reconciler between a database, a Hub and hosts that only note what they are asked."""

from collections.abc import Iterator

import pytest

from api.db import Database
from api.environments.reconciler import EnvironmentReconciler
from api.settings import Settings
from tests.db.environment_world import RecordingHosts, RecordingHub, World
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
