"""Placing shapes on hosts: what fits, what each policy prefers, and that the memory of earlier looks is never wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.packing.placer import Placer, Spot
from scheduler.packing.rooms import Rooms, options
from scheduler.packing.scoring import (
    BestFit,
    Fragmentation,
    PackingPolicy,
    Scale,
    Scoring,
    Spread,
    make_scoring,
    unusable,
)
from scheduler.packing.shape import Shape
from scheduler.packing.workload import Workload

Host = tuple[int, int, list[int]]


def rooms(*hosts: Host) -> Rooms:
    return Rooms.of(hosts)


def placer_of(scoring: Scoring, *hosts: Host) -> Placer:
    return Placer(rooms(*hosts), scoring, Scale.of(rooms(*hosts)))


def host(*gpus: int, cpu: int = 96_000, memory: int = 1000) -> Host:
    return cpu, memory, list(gpus)


@pytest.mark.parametrize(
    ("shape", "spot"),
    [
        (Shape(1000, 1, 2), Spot(2, (0, 2))),
        (Shape(1000, 1, 1), Spot(2, (0,))),
        (Shape(1000, 1, 1, milli=300), Spot(0, (1,))),
        (Shape(1000, 1, 1, milli=600), Spot(2, (0,))),
        (Shape(1000, 1, 3), None),
        (Shape(97_000, 1), None),
        (Shape(1000, 1001), None),
    ],
)
def test_best_fit_takes_what_leaves_least_and_never_what_is_not_there(shape: Shape, spot: Spot | None) -> None:
    placer = placer_of(BestFit(), host(400, 300, 0, 0), host(1000, 1000, 1000, 1000, cpu=10), host(1000, 500, 1000))
    assert placer.find(shape) == spot


def test_spread_takes_the_emptiest() -> None:
    placer = placer_of(Spread(), host(1000, 0), host(1000, 1000))
    assert placer.find(Shape(1, 1, 1)) == Spot(1, (0,))
    assert placer.find(Shape(1, 1, 1, milli=10)) == Spot(1, (0,))


def test_only_allowed_hosts_are_considered() -> None:
    placer = placer_of(BestFit(), host(1000), host(1000))
    assert placer.find(Shape(1, 1, 1), np.array([False, True])) == Spot(1, (0,))
    assert placer.find(Shape(1, 1, 1), np.array([False, False])) is None


def test_fragmentation_is_what_the_usual_request_cannot_use() -> None:
    workload = Workload()
    for shape in [Shape(1000, 1, 1, milli=500), Shape(1000, 1, 2)]:
        workload.observe(shape)
    found = unusable(rooms(host(1000, 400), host(1000, 1000), host(1000, 1000, cpu=1)), workload.mix)
    # Half the requests lose the 400 of the first host, half all of it; nobody can use the third, for want of CPU.
    assert found.tolist() == [(400 + 1400) / 2, 0, 2000]


def test_fragmentation_completes_a_shared_device_rather_than_break_a_whole_one() -> None:
    placer = placer_of(Fragmentation(), host(1000, 1000), host(500, 500))
    for _ in range(3):
        placer.observe(Shape(1000, 1, 2))
        placer.observe(Shape(1000, 1, 1, milli=500))
    assert placer.find(Shape(1000, 1, 1, milli=500)) == Spot(1, (0,))


def test_fragmentation_leaves_no_gpu_without_cpu() -> None:
    """Ten cores a GPU is the usual: a request with few GPUs and much CPU goes where CPU is left over."""
    placer = placer_of(Fragmentation(), host(1000, 1000, 1000, cpu=40_000), host(1000, 1000, 1000, cpu=80_000))
    for _ in range(3):
        placer.observe(Shape(10_000, 1, 1))
    assert placer.find(Shape(30_000, 1, 1)) == Spot(1, (0,))
    assert placer.find(Shape(30_000, 1)) == Spot(1, ())


def test_less_than_nothing_is_refused() -> None:
    placer = placer_of(BestFit(), host(1000))
    with pytest.raises(ValueError, match="less than nothing"):
        placer.take(Shape(97_000, 1, 1), Spot(0, (0,)))


@pytest.mark.parametrize("wrong", [(-1, 0, 0, 1000), (0, 0, 2, 500), (0, 0, 1, 0), (0, 0, 1, 1001)])
def test_impossible_shapes(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="Shape"):
        Shape(*wrong)


def test_the_mix_does_not_depend_on_the_order() -> None:
    shapes = [Shape(n * 1000, 1, 1 + n % 3) for n in range(20)]
    mixes = []
    for order in (shapes, shapes[::-1]):
        workload = Workload()
        for shape in order:
            workload.observe(shape)
        mixes.append(workload.mix)
    assert mixes[0].cpu.tolist() == mixes[1].cpu.tolist()
    assert mixes[0].requests.tolist() == mixes[1].requests.tolist()


SHAPES = [Shape(1000, 1, 1, milli=m) for m in (110, 470, 810, 1000)] + [
    Shape(8000, 3, 2),
    Shape(9000, 1),
    Shape(1, 1, 8),
]
POLICIES = [policy for policy in PackingPolicy if policy is not PackingPolicy.RANDOM]


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    hosts=st.lists(st.tuples(st.integers(1000, 50_000), st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=6),
    steps=st.lists(st.tuples(st.sampled_from(SHAPES), st.booleans()), max_size=30),
)
def test_what_is_remembered_is_what_a_fresh_look_finds(
    policy: PackingPolicy, hosts: list[tuple[int, int, int]], steps: list[tuple[Shape, bool]]
) -> None:
    """Arrivals and departures in any order: nothing is given out twice, nothing refused that fits."""
    scoring = make_scoring(policy)
    full = Rooms.of([(cpu, memory, [1000] * gpus) for cpu, memory, gpus in hosts])
    placer = Placer(full.take(np.arange(len(hosts))), scoring, Scale.of(full))
    running: list[tuple[Shape, Spot]] = []
    for shape, leaves in steps:
        if leaves and running:
            _leave(placer, *running.pop(0))
        placer.observe(shape)
        spot = placer.find(shape)
        copy = placer.rooms.take(np.arange(len(hosts)))
        assert spot == Placer(copy, scoring, Scale.of(full)).find(shape)
        assert (spot is None) == (len(options(copy, shape).row) == 0)
        if spot is not None:
            placer.take(shape, spot)
            running.append((shape, spot))
    while running:
        _leave(placer, *running.pop())
    assert np.array_equal(placer.rooms.gpus, full.gpus)
    assert np.array_equal(placer.rooms.cpu, full.cpu)


def _leave(placer: Placer, shape: Shape, spot: Spot) -> None:
    gpus = placer.rooms.gpus[spot.row].copy()
    gpus[list(spot.devices)] += shape.milli
    placer.change(
        spot.row,
        cpu_milli=int(placer.rooms.cpu[spot.row]) + shape.cpu_milli,
        memory_bytes=int(placer.rooms.memory[spot.row]) + shape.memory_bytes,
        gpus=gpus.tolist(),
    )
