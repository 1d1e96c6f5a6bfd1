"""What could never run is refused with a code for each wish, and a sentence that says what there is."""

from dataclasses import replace

import pytest

from api.allocations.feasibility import Offer, check, read_version
from api.allocations.sizes import Size, default_size
from api.errors import Unprocessable
from scheduler.demand import Demand
from scheduler.packing.shape import Shape
from scheduler.selectors import parse

GIB = 2**30
A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"
OLD = Offer(1, A100, 4, 32_000, 256 * GIB, 80 * GIB, {"rack": "r1", "zone": "a"}, (535, 104, 5), (12, 2))
NEW = Offer(2, H100, 8, 64_000, 512 * GIB, 94 * GIB, {"rack": "r1", "nvlink": "true"}, (550, 54), (12, 4))
TWIN = replace(OLD, host_id=3, labels={"rack": "r2"})
BARE = Offer(4, "", 0, 128_000, 64 * GIB)
OFFERS = [OLD, NEW, TWIN, BARE]
SHAPE = Shape(1000, GIB, 1)


@pytest.mark.parametrize(
    ("demand", "models"),
    [
        (Demand(SHAPE), [A100, H100]),
        (Demand(SHAPE, models=("A100",)), [A100]),
        (Demand(SHAPE, models=("B200", "h100")), [H100]),
        (Demand(SHAPE, gpu_memory_bytes=90 * GIB), [H100]),
        (Demand(SHAPE, selectors=parse("nvlink,rack in (r1,r2)")), [H100]),
        (Demand(SHAPE, selectors=parse("zone=a")), [A100]),
        (Demand(SHAPE, driver=(535, 104)), [A100, H100]),
        (Demand(SHAPE, driver=(535, 104, 6)), [H100]),
        (Demand(SHAPE, cuda=(12, 3)), [H100]),
        (Demand(Shape(1000, GIB, 1, 460)), [A100, H100]),
        (Demand(SHAPE, nodes=2), [A100]),
        (Demand(SHAPE, nodes=2, within="zone", models=("H100",), bound_host_id=None), None),
        (Demand(SHAPE, bound_host_id=3), [A100]),
        (Demand(Shape(1000, GIB, 8)), [H100]),
        (Demand(Shape(1000, GIB)), []),
        (Demand(Shape(1000, GIB), nodes=4, selectors=parse("!floor")), []),
        (Demand(Shape(100_000, GIB)), []),
    ],
)
def test_models_that_would_do(demand: Demand, models: list[str] | None) -> None:
    if models is None:
        with pytest.raises(Unprocessable):
            check(OFFERS, demand)
    else:
        assert check(OFFERS, demand) == models


@pytest.mark.parametrize(
    ("demand", "code", "said"),
    [
        (Demand(SHAPE, bound_host_id=9), "host_not_available", "left for good"),
        (Demand(SHAPE, models=("B200", "B300")), "no_such_model", "'B200' or 'B300'"),
        (Demand(SHAPE, gpu_memory_bytes=95 * GIB), "too_little_gpu_memory", str(94 * GIB)),
        (Demand(SHAPE, selectors=parse("rack=r2,nvlink")), "no_such_label", "'nvlink'"),
        (Demand(SHAPE, models=("A100",), driver=(550,)), "driver_too_old", "the newest is 535.104.5"),
        (Demand(SHAPE, cuda=(13, 0)), "cuda_too_old", "at least 13.0; the newest is 12.4"),
        (Demand(Shape(1000, GIB, 9)), "too_many_gpus", "no such host has more than 8"),
        (Demand(Shape(1000, 513 * GIB, 1)), "too_much_memory", str(512 * GIB)),
        (Demand(Shape(65_000, GIB, 1)), "too_many_cpus", "64000"),
        (Demand(SHAPE, nodes=3), "too_many_nodes", "3 hosts were asked for; at most 2"),
        (Demand(SHAPE, nodes=2, within="rack"), "too_many_nodes", "at most 1 with one value of the label 'rack'"),
        (Demand(SHAPE, nodes=1, within="floor"), "too_many_nodes", "at most 0"),
        (Demand(Shape(1000, GIB), nodes=5), "too_many_nodes", "5 hosts were asked for; at most 4"),
        (Demand(Shape(1000, GIB), selectors=parse("floor")), "no_such_label", "No host fulfils 'floor'"),
        (Demand(Shape(129_000, GIB)), "too_many_cpus", "128000"),
    ],
)
def test_what_can_never_run_says_why(demand: Demand, code: str, said: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        check(OFFERS, demand)
    assert refused.value.code == code
    assert said in refused.value.detail


def test_what_names_no_size_gets_a_share_for_each_gpu_or_a_little_without() -> None:
    assert default_size([OLD, NEW], gpus=2) == Size(16_000, 2 * (512 * GIB * 9 // 10 // 8))
    assert default_size(OFFERS, gpus=0) == Size(1_000, 4 * GIB)
    assert default_size([replace(BARE, cpu_milli=500, memory_bytes=GIB)], gpus=0) == Size(500, GIB)


@pytest.mark.parametrize(
    ("text", "version"),
    [("550.54.15", (550, 54, 15)), ("535.104.05", (535, 104, 5)), ("12.4", (12, 4)), ("560-open", ()), (None, ())],
)
def test_versions_as_hosts_tell_them(text: str | None, version: tuple[int, ...]) -> None:
    assert read_version(text) == version
