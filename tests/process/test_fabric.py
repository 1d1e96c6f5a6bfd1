"""The fabric on a real Ray cluster: groups by name, exact devices, agents, and what survives whose death."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import ray
from ray.util.placement_group import placement_group_table

from cluster.agents import Agents, agent_name
from cluster.connection import RayUnavailableError, connect, disconnect
from cluster.fabric import RayFabric, find_group, remove_orphans
from cluster.membership import Membership
from deploy.instance import Instance
from deploy.progress import StepError
from deploy.ray_head import check_external_head
from scheduler.host_protocol import DeviceShare, Lease
from scheduler.ports import CapacityError, HostShare, HostUnreachableError, StaleGenerationError, StillEndingError
from tests.process.conftest import NAMESPACE, connected
from tests.process.echo_agent import EchoAgent
from tests.process.ray_cluster import RayCluster, host_uid
from tests.waiting import wait_for

GIB = 2**30


def share(host: int = 1, device: str = "GPU-h1-0", milli: int = 1000, cpu_milli: int = 1000) -> HostShare:
    return HostShare(host_uid(host), (DeviceShare(device, milli),), cpu_milli, GIB)


def lease(generation: int) -> Lease:
    return Lease("a1", generation, "c1", (DeviceShare("GPU-h1-0", 1000),), 1000, GIB, GIB, 100, 0, "image", "name")


def state(name: str) -> str | None:
    group = find_group(name)
    return None if group is None else str(placement_group_table(group)["state"])


@pytest.fixture(autouse=True)
def nothing_left(membership: Membership) -> Iterator[None]:
    yield
    if ray.is_initialized():
        remove_orphans(frozenset(), prefix="rg-")


def test_reserve_is_idempotent_and_remove_frees(fabric: RayFabric) -> None:
    fabric.reserve("rg-one", [share()])
    group = find_group("rg-one")
    fabric.reserve("rg-one", [share()])
    again = find_group("rg-one")
    assert group is not None and again is not None and group.id == again.id
    fabric.remove("rg-one")
    fabric.remove("rg-one")
    assert find_group("rg-one") is None
    fabric.reserve("rg-two", [share()])  # about a second: Ray is slow to give out again what was just released


def test_a_device_is_given_to_one_only_and_failure_leaves_nothing(membership: Membership, agents: Agents) -> None:
    fabric = RayFabric(agents, namespace=NAMESPACE, reserve_s=1.5)
    fabric.reserve("rg-first", [share(milli=600)])
    with pytest.raises(CapacityError):
        fabric.reserve("rg-second", [share(milli=600)])
    assert find_group("rg-second") is None
    # All or nothing: the other host's half of a gang is free again.
    with pytest.raises(CapacityError):
        fabric.reserve("rg-gang", [share(milli=600), share(2, "GPU-h2-0")])
    fabric.reserve("rg-third", [share(2, "GPU-h2-0")])
    fabric.reserve("rg-other-device", [share(device="GPU-h1-1")])
    fabric.reserve("rg-rest", [share(milli=400)])


def test_a_bundle_may_have_no_device(membership: Membership, agents: Agents) -> None:
    """Its CPU and memory are of the host asked for, and given out once."""
    fabric = RayFabric(agents, namespace=NAMESPACE, reserve_s=1.5)
    alone = HostShare(host_uid(2), (), 5000, GIB)
    fabric.reserve("rg-alone", [alone])
    fabric.reserve("rg-beside", [share(2, "GPU-h2-0", cpu_milli=3000)])
    with pytest.raises(CapacityError):
        fabric.reserve("rg-too-much", [alone])
    fabric.reserve("rg-elsewhere", [HostShare(host_uid(1), (), 5000, GIB)])


def test_a_device_of_another_host_is_not_taken(agents: Agents) -> None:
    fabric = RayFabric(agents, namespace=NAMESPACE, reserve_s=1.0)
    with pytest.raises(CapacityError):
        fabric.reserve("rg-wrong", [share(host=1, device="GPU-h2-0")])


def test_groups_and_agents_are_adopted_by_the_next_driver(
    cluster: RayCluster, membership: Membership, agents: Agents
) -> None:
    fabric = RayFabric(agents, namespace=NAMESPACE)
    fabric.reserve("rg-kept", [share()])
    pid = agents.call(host_uid(1), "echo", {}, timeout_s=20).body["pid"]
    before = find_group("rg-kept")
    membership.stop()
    disconnect()
    adopted = connected(cluster)
    after = find_group("rg-kept")
    assert before is not None and after is not None and before.id == after.id
    next_agents = Agents(EchoAgent, adopted, namespace=NAMESPACE)
    next_agents.ensure()
    assert next_agents.call(host_uid(1), "echo", {}, timeout_s=20).body["pid"] == pid
    adopted.stop()


def test_orphans_are_removed_and_known_groups_stay(fabric: RayFabric) -> None:
    fabric.reserve("rg-known", [share()])
    fabric.reserve("rg-orphan", [share(device="GPU-h1-1")])
    assert remove_orphans(frozenset({"rg-known"}), prefix="rg-") == ["rg-orphan"]
    assert find_group("rg-orphan") is None and state("rg-known") == "CREATED"


def test_leases_travel_to_the_host(fabric: RayFabric) -> None:
    fabric.grant(host_uid(1), lease(1))
    with pytest.raises(StaleGenerationError):
        fabric.grant(host_uid(1), lease(0))
    ended = fabric.end(host_uid(1), allocation_uid="a1", generation=1, grace_s=1)
    assert abs(ended.ended_at_ms - time.time() * 1000) < 5000


def test_an_end_that_goes_on_is_no_refusal(fabric: RayFabric) -> None:
    with pytest.raises(StillEndingError):
        fabric.end(host_uid(1), allocation_uid="a1", generation=1, grace_s=3600, reason="preempted")


def test_calls_are_bounded_and_side_by_side(agents: Agents) -> None:
    agents.call(host_uid(2), "echo", {}, timeout_s=20)
    began = time.monotonic()
    with pytest.raises(HostUnreachableError, match="no answer"):
        agents.call(host_uid(2), "slow", {"seconds": 3}, timeout_s=0.3)
    agents.call(host_uid(2), "echo", {}, timeout_s=1)
    assert time.monotonic() - began < 2
    with pytest.raises(HostUnreachableError, match="not in Ray"):
        agents.call(str(UUID(int=9)), "echo", {}, timeout_s=5)


def test_a_killed_agent_comes_back(agents: Agents) -> None:
    pid = agents.call(host_uid(1), "echo", {}, timeout_s=20).body["pid"]
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        try:
            return bool(agents.call(host_uid(1), "echo", {}, timeout_s=2).body["pid"] != pid)
        except HostUnreachableError:
            return False

    assert wait_for(back, timeout_s=15, what="the agent to come back") < 15


def test_a_lost_host_is_noticed_and_returns_with_group_and_agent(
    cluster: RayCluster, membership: Membership, agents: Agents, fabric: RayFabric
) -> None:
    fabric.reserve("rg-gone", [share(2, "GPU-h2-0")])
    agents.call(host_uid(2), "echo", {}, timeout_s=20)
    cluster.kill("host-2")
    wait_for(lambda: host_uid(2) not in membership.hosts, timeout_s=5, what="the loss to be noticed")
    with pytest.raises(HostUnreachableError):
        agents.call(host_uid(2), "echo", {}, timeout_s=5)
    cluster.start_host(2)
    wait_for(lambda: host_uid(2) in membership.hosts, timeout_s=10, what="the host to return")
    wait_for(lambda: state("rg-gone") == "CREATED", timeout_s=15, what="its group to return")
    agents.ensure()
    wait_for(lambda: _answers(agents, 2), timeout_s=15, what="its agent to return")


def test_groups_and_agents_survive_the_head(
    cluster: RayCluster, membership: Membership, agents: Agents, fabric: RayFabric
) -> None:
    fabric.reserve("rg-survivor", [share()])
    pid = agents.call(host_uid(1), "echo", {}, timeout_s=20).body["pid"]
    membership.stop()
    disconnect()
    cluster.kill("head")
    cluster.start_head()
    returned = connected(cluster)
    assert state("rg-survivor") == "CREATED"
    later = Agents(EchoAgent, returned, namespace=NAMESPACE)
    later.ensure()
    wait_for(lambda: _answers(later, 1), timeout_s=20, what="the agent to answer")
    assert later.call(host_uid(1), "echo", {}, timeout_s=10).body["pid"] == pid
    with pytest.raises(CapacityError):
        RayFabric(later, namespace=NAMESPACE, reserve_s=1.0).reserve("rg-double", [share()])
    returned.stop()


def test_a_wrong_token_is_refused(cluster: RayCluster, membership: Membership, scratch: Path) -> None:
    membership.stop()
    disconnect()
    wrong = scratch / "wrong_token"
    wrong.write_text("0" * 64)
    with pytest.raises(RayUnavailableError):
        connect(cluster.address, namespace=NAMESPACE, token_file=wrong, timeout_s=5)


def test_a_head_that_others_run_is_tried_before_it_is_used(cluster: RayCluster, scratch: Path) -> None:
    installation = Instance(data=scratch / "installation", ray_address=cluster.address)
    installation.secrets.mkdir(parents=True)
    token = installation.secrets / "ray_token"
    token.write_text(cluster.token_file.read_text())
    assert check_external_head(installation) == f"{ray.__version__} at {cluster.address}"
    with pytest.raises(StepError, match="nothing listens at"):
        check_external_head(replace(installation, ray_address="127.0.0.1:9"))
    token.write_text("0" * 64)
    with pytest.raises(StepError, match=f"{cluster.address} refused our token.*--ray-token-file"):
        check_external_head(installation)


def test_nobody_listening_is_said_in_time(membership: Membership, cluster: RayCluster) -> None:
    membership.stop()
    disconnect()
    with pytest.raises(RayUnavailableError, match="nothing listens"):
        connect("127.0.0.1:9", namespace=NAMESPACE, token_file=cluster.token_file, timeout_s=0.5)


def test_the_agent_is_named_for_its_host(agents: Agents) -> None:
    agents.call(host_uid(1), "echo", {}, timeout_s=20)
    assert ray.get_actor(agent_name(host_uid(1)), namespace=NAMESPACE) is not None


def _answers(agents: Agents, number: int) -> bool:
    try:
        return agents.call(host_uid(number), "echo", {}, timeout_s=2).status == 200
    except HostUnreachableError:
        return False
