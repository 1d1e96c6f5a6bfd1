"""What may be asked of the scheduler: what the schema takes, what it refuses, and the demand that comes of it."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.allocations.request import ResourceRequest, SchedulingOptions, demand_of
from scheduler.demand import Operator, Selector
from scheduler.packing.shape import Shape


def test_a_plain_request_demands_no_more_than_it_says() -> None:
    options = ResourceRequest(gpus=2).scheduling
    assert options == SchedulingOptions()
    assert options.model_dump(exclude_defaults=True) == {}
    demand = demand_of(options, gpus=2, cpu_milli=1000, memory_bytes=5)
    assert (demand.shape, demand.models, demand.selectors, demand.driver) == (Shape(1000, 5, 2), (), (), ())


def test_every_option_reaches_the_demand() -> None:
    wanted = ResourceRequest(
        gpus=1, gpu_milli=460, gpu_models=["A100", "H100"], gpu_memory_bytes=2**35, driver="550.54", cuda="12.4",
        selectors=["region=eu,!spot", "mem>40"], apart="web",
    )  # fmt: skip
    demand = demand_of(
        wanted.scheduling, gpus=1, cpu_milli=1, memory_bytes=2, nodes=3, within="rack", bound_host_id=4, image="i"
    )
    assert demand.shape == Shape(1, 2, 1, 460)
    assert (demand.models, demand.gpu_memory_bytes) == (("A100", "H100"), 2**35)
    assert demand.selectors == (
        Selector("region", Operator.IN, ("eu",)), Selector("spot", Operator.ABSENT),
        Selector("mem", Operator.GREATER, ("40",)),
    )  # fmt: skip
    assert (demand.driver, demand.cuda, demand.apart) == ((550, 54), (12, 4), "web")
    assert (demand.nodes, demand.within, demand.bound_host_id, demand.image) == (3, "rack", 4, "i")


def test_one_model_is_a_list_of_one() -> None:
    assert ResourceRequest(gpus=1, gpu_model="A100").scheduling.gpu_models == ["A100"]


def test_what_is_kept_reads_the_same() -> None:
    options = ResourceRequest(gpus=1, gpu_milli=1, priority=7, time_limit_s=60, selectors=["a in (b,c)"]).scheduling
    assert SchedulingOptions.model_validate(options.model_dump(mode="json", exclude_defaults=True)) == options


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gpus": 2, "gpu_milli": 500}, "a share is of one GPU"),
        ({"gpu_milli": 0}, "greater than or equal to 1"),
        ({"gpu_milli": 1001}, "less than or equal to 1000"),
        ({"gpu_model": "A100", "gpu_models": ["H100"]}, "not both"),
        ({"selectors": ["zone in a"]}, "'a' is no list of values in parentheses"),
        ({"selectors": ["a"] * 17}, "at most 16"),
        ({"driver": "new"}, "pattern"),
        ({"cuda": "12."}, "pattern"),
        ({"priority": 1001}, "less than or equal to 1000"),
        ({"priority": -1}, "greater than or equal to 0"),
        ({"time_limit_s": 0}, "greater than or equal to 1"),
        ({"min_runtime_s": -1}, "greater than or equal to 0"),
        ({"apart": "two words"}, "pattern"),
        ({"capacity_group": ""}, "pattern"),
        ({"reservation": "soon"}, "UUID"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ResourceRequest(**{"gpus": 1, **fields})
