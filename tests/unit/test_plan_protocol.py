"""A what-if question and its answer survive the way through JSON, whole."""

from datetime import UTC, datetime

from pydantic import TypeAdapter

from scheduler.demand import Demand, Operator, Selector
from scheduler.packing.shape import Shape
from scheduler.plan_protocol import PlanAnswer, PlanQuestion, When
from scheduler.ports import WaitReason
from scheduler.views import Part, Request

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_question_survives() -> None:
    demand = Demand(
        Shape(4000, 2**34, 1, 460), nodes=2, models=("A100", "H100"), gpu_memory_bytes=2**35,
        selectors=(Selector("zone", Operator.IN, ("a", "b")),), driver=(535, 104), cuda=(12, 4), bound_host_id=3,
        apart="web", within="rack", image="remotegpu/base:1",
    )  # fmt: skip
    request = Request(
        0, "", 7, 8, demand, NOON, priority=5, group="gold", preemptible=True, min_runtime_s=60, limit_s=3600,
        hold_s=600, reservation_id=9,
    )  # fmt: skip
    adapter = TypeAdapter(PlanQuestion)
    assert adapter.validate_json(adapter.dump_json(PlanQuestion(request))) == PlanQuestion(request)


def test_an_answer_survives() -> None:
    reason = WaitReason("no_capacity", "0 of 8 are free.", 3, {"free": 0}, NOON, "limits")
    adapter = TypeAdapter(PlanAnswer)
    for answer in (
        PlanAnswer(When.NOW, parts=(Part(1, ((100, 1000), (101, 1000))),)),
        PlanAnswer(When.LATER, reason, (Part(1, ((100, 460),)),)),
    ):
        assert adapter.validate_json(adapter.dump_json(answer)) == answer
