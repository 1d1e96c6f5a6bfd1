"""One Ray cluster per test session: a head and two hosts of two devices each."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.agents import Agents
from cluster.connection import connect, disconnect
from cluster.fabric import RayFabric
from cluster.membership import Membership
from tests.leftovers import processes_of
from tests.process.daemon_fixtures import allowed, certificates, host, platform  # noqa: F401  # fixtures
from tests.process.echo_agent import EchoAgent
from tests.process.hub_fixtures import browser, engine, hub, hub_platform  # noqa: F401  # fixtures
from tests.process.ray_cluster import RayCluster
from tests.waiting import wait_for

NAMESPACE = "remotegpu"


@pytest.fixture(scope="session", autouse=True)
def nothing_runs_on(scratch: Path) -> Iterator[None]:
    """After everything else is torn down but PostgreSQL, which all tests share, no process of this session is left."""
    yield
    wait_for(lambda: not processes_of(scratch, but="postgres"), timeout_s=30, what=f"no process of {scratch}")


@pytest.fixture(scope="session")
def running_cluster(scratch: Path) -> Iterator[RayCluster]:
    cluster = RayCluster(scratch / "r")
    try:
        cluster.mend()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(running_cluster: RayCluster) -> Iterator[RayCluster]:
    """The cluster, with this process as its driver; tests that break a part of it start that part again."""
    saved = dict(os.environ)
    running_cluster.mend()
    try:
        yield running_cluster
    finally:
        disconnect()
        os.environ.clear()
        os.environ.update(saved)


@pytest.fixture
def membership(cluster: RayCluster) -> Iterator[Membership]:
    membership = connected(cluster)
    yield membership
    membership.stop()


def connected(cluster: RayCluster) -> Membership:
    """Connect this process, and wait until both hosts are there."""
    node_id = connect(cluster.address, namespace=NAMESPACE, token_file=cluster.token_file)
    membership = Membership(node_id)
    membership.start()
    wait_for(lambda: len(membership.hosts) == cluster.hosts, timeout_s=20, what="both hosts in Ray")
    return membership


@pytest.fixture
def agents(membership: Membership) -> Agents:
    agents = Agents(EchoAgent, membership, namespace=NAMESPACE)
    agents.ensure()
    return agents


@pytest.fixture
def fabric(agents: Agents) -> RayFabric:
    return RayFabric(agents, namespace=NAMESPACE)
