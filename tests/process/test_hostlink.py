"""The controller's socket: the API's own client on one end, an agent in Ray on the other."""

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from api.allocations.planner import ControllerUnavailable, SocketPlanner
from api.hostlink import Hostlink as Client
from api.hostlink import HostUnreachable
from cluster.agents import Agents
from cluster.hostlink import Hostlink
from cluster.plan_desk import PlanDesk
from scheduler.demand import Demand, Operator, Selector
from scheduler.packing.shape import Shape
from scheduler.plan_protocol import PlanAnswer, PlanQuestion, When
from scheduler.ports import WaitReason
from scheduler.views import Part, Request
from tests.process.ray_cluster import host_uid


@pytest.fixture
def desk() -> PlanDesk:
    return PlanDesk()


@pytest.fixture
def hostlink(agents: Agents, desk: PlanDesk, scratch: Path) -> Iterator[Path]:
    path = scratch / "hl" / "hostlink.sock"
    agents.call(host_uid(1), "echo", {}, timeout_s=20)
    server = Hostlink(agents, desk, path)
    server.start()
    yield path
    server.stop()


def test_operations_travel_with_their_status(hostlink: Path) -> None:
    assert stat.S_IMODE(hostlink.stat().st_mode) == 0o600
    with Client(hostlink) as client:
        status, answer = client.call(host_uid(1), "echo", {"a": 1})
        assert status == 200 and answer["body"] == {"a": 1}
        assert client.call(host_uid(1), "grant_lease", {"generation": 0})[0] == 409


def test_an_unknown_host_is_unreachable(hostlink: Path) -> None:
    with Client(hostlink) as client, pytest.raises(HostUnreachable, match="not in Ray"):
        client.call("nobody", "echo", {})


def test_calls_run_side_by_side(hostlink: Path) -> None:
    with Client(hostlink) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.call(host_uid(1), "slow", {"seconds": 0.5}, timeout_s=3), range(8)))
    assert [status for status, _ in answers] == [200] * 8


def test_bad_requests_are_refused(hostlink: Path) -> None:
    transport = httpx.HTTPTransport(uds=str(hostlink))
    with httpx.Client(transport=transport, base_url="http://hostlink") as client:
        for path, content in [("echo", b"[1]"), ("echo", b"{"), ("../x", b"{}"), ("Echo", b"{}")]:
            assert client.post(f"/v1/hosts/{host_uid(1)}/{path}", content=content).status_code in (400, 404)
        oversized = b'{"a": "' + b"x" * 2**20 + b'"}'
        assert client.post(f"/v1/hosts/{host_uid(1)}/echo", content=oversized).status_code == 413
        assert client.get("/health").json() == {"status": "ok"}
        assert "remotegpu_controller_leader" in client.get("/metrics").text


def test_a_what_if_is_answered_by_who_leads_and_by_nobody_else(hostlink: Path, desk: PlanDesk) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    demand = Demand(Shape(1000, 2**30, 2), models=("A100",), selectors=(Selector("zone", Operator.IN, ("a", "b")),))
    question = PlanQuestion(Request(0, "", 7, 8, demand, noon, limit_s=60))
    reason = WaitReason("no_capacity", "2 are needed.", 3, {"free": 1}, noon, "limits")
    answer = PlanAnswer(When.LATER, reason, (Part(1, ((10, 1000), (11, 1000))),))
    asked: list[PlanQuestion] = []

    def leader(asking: PlanQuestion) -> PlanAnswer:
        asked.append(asking)
        return answer

    with SocketPlanner(hostlink) as planner:
        with pytest.raises(ControllerUnavailable):
            planner.plan(question)
        with desk.open(leader):
            assert planner.plan(question) == answer
        with pytest.raises(ControllerUnavailable):
            planner.plan(question)
    assert asked == [question]
