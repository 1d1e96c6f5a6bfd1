"""What-if over HTTP: the engine's answer with names and costs, refusals without it, and nothing queued."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.allocations.planner import AT_ONCE, WAITING, ControllerUnavailable, SocketPlanner
from api.allocations.tables import Allocation
from api.billing.journal import top_up
from api.billing.prices import create_price
from api.capacity.tables import CapacityGroup
from api.db import Database
from api.errors import TooManyRequests
from api.machines.tables import Gpu, Host
from api.quotas.tables import Quota
from scheduler.demand import Demand
from scheduler.packing.shape import Shape
from scheduler.plan_protocol import PlanAnswer, PlanQuestion, When
from scheduler.ports import WaitReason
from scheduler.views import Part, Request
from tests.controller_socket import ControllerSocket, answering
from tests.db.conftest import Tenant
from tests.db.fleet import A100, DOLLAR, H100, Fleet
from tests.waiting import wait_for

PATH = "/api/v1/customer/allocations/plan"
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
BUSY = WaitReason("no_capacity", "0 of 4 are free.", 2, {"free": 0}, NOON, "estimate")


UNKNOWN = PlanAnswer(When.UNKNOWN, WaitReason("no_capacity", "Nobody knows.", 1))


@dataclass(slots=True)
class AnsweringPlanner:
    answer: PlanAnswer = UNKNOWN
    asked: list[PlanQuestion] = field(default_factory=list)

    def plan(self, question: PlanQuestion) -> PlanAnswer:
        self.asked.append(question)
        return self.answer

    def close(self) -> None:
        pass


@pytest.fixture
def fleet(database: Database, tenant: Tenant) -> Fleet:
    fleet = Fleet(database)
    fleet.host("h1")
    fleet.price()
    database.transact(
        lambda session: top_up(
            session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="start"
        )
    )
    return fleet


@pytest.fixture
def planner(app: FastAPI) -> AnsweringPlanner:
    app.state.planner = planner = AnsweringPlanner()
    return planner


def plan(client: TestClient, tenant: Tenant, **asked: Any) -> httpx.Response:
    return client.post(PATH, json={"gpus": 1, **asked}, headers=tenant.member.headers)


def planned(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_the_cost_is_told_on_its_own_terms(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, planner: AnsweringPlanner, database: Database
) -> None:
    database.transact(
        lambda session: create_price(
            session,
            gpu_model="A100",
            price_micro=DOLLAR,
            preemptible_discount_permille=300,
            customer_id=tenant.customer.id,
        )
    )
    for preemptible, expected in ((False, ("on_demand", 1_000_000)), (True, ("preemptible", 700_000))):
        (cost,) = planned(plan(app_client, tenant, preemptible=preemptible))["costs"]
        assert (cost["terms"], cost["price_micro_per_gpu_hour"]) == expected


def test_what_starts_now_is_told_with_place_and_price(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, planner: AnsweringPlanner, database: Database
) -> None:
    fleet.host("h2", model=H100)
    fleet.price("H100", micro=4 * DOLLAR)
    gpus = [gpu for gpu in fleet.rows(Gpu) if gpu.model == A100]
    planner.answer = PlanAnswer(When.NOW, parts=(Part(gpus[0].host_id, ((gpus[0].id, 460),)),))
    told = planned(plan(app_client, tenant, gpu_milli=460, time_limit_s=1800, priority=3, gpu_models=["A100", "H100"]))
    assert (told["when"], told["wait"], told["limits"]) == ("now", None, [])
    assert told["eta"] is not None
    assert told["hosts"] == [
        {"host": "h1", "devices": [{"uuid": "GPU-h1-0", "model": A100, "milli": 460, "simulated": False}]}
    ]
    assert told["costs"] == [
        {
            "gpu_model": A100, "currency": "USD", "terms": "on_demand", "price_micro_per_gpu_hour": 2 * DOLLAR,
            "kept_for_s": None, "micro_per_hour": 920_000, "micro_for_limit": 460_000,
        }
    ]  # fmt: skip
    (question,) = planner.asked
    request = question.request
    assert (request.allocation_id, request.customer_id, request.priority, request.limit_s) == (
        0, tenant.customer.id, 3, 1800
    )  # fmt: skip
    assert request.demand.shape.milli == 460
    assert request.demand.models == ("A100", "H100")
    with database.session() as session:
        assert session.scalars(select(Allocation)).all() == []


def test_what_waits_is_told_when_and_on_what_that_rests(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, planner: AnsweringPlanner
) -> None:
    planner.answer = PlanAnswer(When.LATER, BUSY)
    told = planned(plan(app_client, tenant))
    assert (told["when"], told["eta"], told["hosts"]) == ("later", "2027-01-01T12:00:00Z", [])
    assert told["wait"] == {
        "code": "no_capacity", "detail": "0 of 4 are free.", "position": 2, "figures": {"free": 0},
        "eta": "2027-01-01T12:00:00Z", "eta_basis": "estimate",
    }  # fmt: skip
    assert [cost["micro_for_limit"] for cost in told["costs"]] == [None]
    planner.answer = UNKNOWN
    told = planned(plan(app_client, tenant, nodes=1))
    assert (told["when"], told["eta"], told["wait"]["eta_basis"]) == ("unknown", None, "unknown")


def test_it_may_be_of_several_hosts_in_one_rack_for_a_workspace(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, planner: AnsweringPlanner, database: Database
) -> None:
    fleet.host("h2")
    database.transact(lambda session: session.execute(update(Host).values(labels={"rack": "r1"})))
    gpus = {gpu.uuid: gpu for gpu in fleet.rows(Gpu)}
    made = app_client.post("/api/v1/customer/workspaces", json={"name": "research"}, headers=tenant.owner.headers)
    assert made.status_code == 201, made.text
    parts = tuple(Part(gpus[f"GPU-{name}-0"].host_id, ((gpus[f"GPU-{name}-0"].id, 1000),)) for name in ("h2", "h1"))
    planner.answer = PlanAnswer(When.NOW, parts=parts)
    told = planned(plan(app_client, tenant, nodes=2, within="rack", workspace="research"))
    assert [host["host"] for host in told["hosts"]] == ["h2", "h1"]
    assert [cost["micro_per_hour"] for cost in told["costs"]] == [4 * DOLLAR]
    (question,) = planner.asked
    assert (question.request.demand.nodes, question.request.demand.within) == (2, "rack")
    assert question.request.workspace_id != tenant.workspace.id


def test_quota_and_balance_are_told_beside_it(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, planner: AnsweringPlanner, database: Database
) -> None:
    database.transact(lambda session: session.add(Quota(customer_id=tenant.customer.id, gpus=3)))
    fleet.price(micro=10_000 * DOLLAR)
    told = planned(plan(app_client, tenant, gpus=2))
    assert [limit["code"] for limit in told["limits"]] == ["balance"]
    assert "first 10 minutes" in told["limits"][0]["detail"]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"gpus": 5}, "too_many_gpus"),
        ({"nodes": 2}, "too_many_nodes"),
        ({"gpu_model": "B300"}, "no_such_model"),
        ({"selectors": ["spot"]}, "no_such_label"),
        ({"gpus": 4}, "quota_exceeded"),
    ],
)
def test_what_can_never_run_is_answered_without_a_controller(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, database: Database, asked: dict[str, Any], code: str
) -> None:
    database.transact(lambda session: session.add(Quota(customer_id=tenant.customer.id, gpus=3)))
    told = planned(plan(app_client, tenant, **asked))
    assert (told["when"], told["wait"]["code"], told["costs"], told["hosts"]) == ("never", code, [], [])


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"priority": 501}, "priority_too_high"),
        ({"capacity_group": "gold"}, "unknown_capacity_group"),
        ({"image": "none"}, "unknown_image"),
        ({"workspace": "none"}, "unknown_workspace"),
        ({"gpus": -1}, "validation"),
        ({"name": "lab"}, "validation"),
    ],
)
def test_what_names_nothing_is_refused(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, asked: dict[str, Any], code: str
) -> None:
    answer = plan(app_client, tenant, **asked)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_without_gpus_it_costs_nothing(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, planner: AnsweringPlanner, database: Database
) -> None:
    (host,) = fleet.rows(Host)
    group = CapacityGroup(name="gold", customer_id=tenant.customer.id, nominal_milli=0, gpu_model="H100")
    database.transact(lambda session: session.add(group))
    planner.answer = PlanAnswer(When.NOW, parts=(Part(host.id, ()),))
    told = planned(plan(app_client, tenant, gpus=0, capacity_group="gold", image=None))
    assert (told["when"], told["hosts"], told["costs"], told["limits"]) == (
        "now", [{"host": "h1", "devices": []}], [], []
    )  # fmt: skip
    demand = planner.asked[-1].request.demand
    assert (demand.shape, demand.models) == (Shape(1000, 4 * 2**30), ())


def test_it_is_of_the_model_of_its_capacity_group(
    app_client: TestClient, tenant: Tenant, fleet: Fleet, planner: AnsweringPlanner, database: Database
) -> None:
    fleet.host("h2", model=H100, gpus=1)
    fleet.price("H100", micro=4 * DOLLAR)
    group = CapacityGroup(name="gold", customer_id=tenant.customer.id, nominal_milli=4000, gpu_model="H100")
    database.transact(lambda session: session.add(group))
    told = planned(plan(app_client, tenant, capacity_group="gold"))
    assert [cost["gpu_model"] for cost in told["costs"]] == [H100]
    planned(plan(app_client, tenant, capacity_group="gold", gpu_models=["A100", "H100-80GB"]))
    assert [asked.request.demand.models for asked in planner.asked] == [("H100",), ("H100-80GB",)]
    for asked, code in (({"gpu_model": "A100"}, "capacity_group_model"), ({"gpus": 2}, "too_many_gpus")):
        never = planned(plan(app_client, tenant, capacity_group="gold", **asked))
        assert (never["when"], never["wait"]["code"]) == ("never", code)


def test_without_a_controller_nobody_can_say(app_client: TestClient, tenant: Tenant, fleet: Fleet) -> None:
    answer = plan(app_client, tenant)
    assert (answer.status_code, answer.json()["code"]) == (503, "controller_unavailable")


QUESTION = PlanQuestion(Request(0, "", 1, 1, Demand(Shape(1000, 2**30, 1), models=("A100",)), NOON))


@pytest.fixture
def controller(scratch: Path) -> Iterator[ControllerSocket]:
    with answering(scratch / "controller.sock") as controller:
        yield controller


def test_the_question_goes_over_the_socket_and_the_answer_comes_back(controller: ControllerSocket) -> None:
    controller.body = (
        b'{"when":"later","reason":{"code":"no_capacity","detail":"0 of 4 are free.","position":2,'
        b'"figures":{"free":0},"eta":"2027-01-01T12:00:00Z","eta_basis":"estimate"},"parts":[]}'
    )
    with SocketPlanner(controller.path) as planner:
        assert planner.plan(QUESTION) == PlanAnswer(When.LATER, BUSY)
    ((path, asked),) = controller.asked
    assert path == "/v1/plan"
    assert asked["request"]["demand"]["shape"] == {"cpu_milli": 1000, "memory_bytes": 2**30, "gpus": 1, "milli": 1000}


@pytest.mark.parametrize(
    ("status", "body"), [(503, b""), (404, b"{}"), (500, b"oops"), (200, b"no json"), (200, b'{"when":"soon"}')]
)
def test_any_other_answer_is_no_answer(controller: ControllerSocket, status: int, body: bytes) -> None:
    controller.status, controller.body = status, body
    with SocketPlanner(controller.path) as planner, pytest.raises(ControllerUnavailable):
        planner.plan(QUESTION)


def test_a_flood_of_questions_is_refused_and_keeps_no_thread(controller: ControllerSocket) -> None:
    """Of those at once, some are answered in time."""
    goes_on = threading.Event()
    controller.hangs = goes_on
    with SocketPlanner(controller.path) as planner, ThreadPoolExecutor(AT_ONCE + WAITING + 5) as people:
        questions = [people.submit(planner.plan, QUESTION) for _ in range(AT_ONCE + WAITING + 5)]
        wait_for(lambda: sum(each.done() for each in questions) == 5, timeout_s=20, what="five refusals")
        goes_on.set()
    refused = [error for each in questions if (error := each.exception()) is not None]
    assert [type(error) for error in refused] == [TooManyRequests] * 5
