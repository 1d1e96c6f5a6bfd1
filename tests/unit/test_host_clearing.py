"""What leaves a host so that a part of a request fits there, against all that could leave it."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.cluster.pools import NOBODY, SEVERAL
from scheduler.cluster.room import Room, RoomDevice
from scheduler.demand import Demand
from scheduler.engine.host_clearing import clear_host
from scheduler.packing.shape import Shape
from scheduler.states import AllocationState
from scheduler.views import Held, Part, Request
from tests.unit.engine_world import at

HOST, DEVICES = 1, 6
CPU_MILLI = 12_000


def held(number: int, customer_id: int, shape: Shape, *gpu_ids: int) -> Held:
    request = Request(number, f"a{number}", customer_id, 0, Demand(shape), at(0))
    parts = (Part(HOST, tuple((gpu_id, shape.milli) for gpu_id in gpu_ids)),)
    return Held(request, AllocationState.ACTIVE, 1, parts, at(0))


def room(everybody: Sequence[Held]) -> Room:
    """What is left beside all of them."""
    devices = []
    for gpu_id in range(DEVICES):
        there = [h for h in everybody if gpu_id in dict(h.parts[0].devices)]
        owners = {h.request.customer_id for h in there}
        owner = owners.pop() if len(owners) == 1 else SEVERAL if owners else NOBODY
        devices.append(RoomDevice(gpu_id, 1000 - sum(h.request.demand.shape.milli for h in there), owner))
    taken = sum(h.request.demand.shape.cpu_milli for h in everybody)
    return Room(HOST, "A100", CPU_MILLI - taken, 100, tuple(devices))


def fits(demand: Demand, customer_id: int, staying: Sequence[Held]) -> bool:
    left = room(staying)
    free = [
        device
        for device in left.devices
        if device.free_milli >= demand.shape.milli and device.owner in (NOBODY, customer_id)
    ]
    return len(free) >= demand.shape.gpus and left.cpu_milli >= demand.shape.cpu_milli


def least(demand: Demand, everybody: Sequence[Held], victims: Sequence[Held], costs: Mapping[int, float]) -> float:
    """What has to be lost at least; infinite if nothing would do."""
    ways = (gone for count in range(len(victims) + 1) for gone in combinations(victims, count))
    return min(
        (
            sum(costs[victim.request.allocation_id] for victim in gone)
            for gone in ways
            if fits(demand, 1, [h for h in everybody if h not in gone])
        ),
        default=float("inf"),
    )


@st.composite
def crowds(draw: st.DrawFn) -> list[Held]:
    """Allocations on a host, of whole devices and of shares, none of them beside another customer's."""
    free, found = list(range(DEVICES)), list[Held]()
    while free and len(found) < 7 and draw(st.booleans() if found else st.just(True)):
        number, customer_id, cpu_milli = len(found) + 1, draw(st.integers(1, 2)), draw(st.sampled_from([0, 1000, 3000]))
        if draw(st.booleans()):
            gpu_ids = [free.pop() for _ in range(min(len(free), draw(st.integers(1, 3))))]
            found.append(held(number, customer_id, Shape(cpu_milli, 1, len(gpu_ids)), *gpu_ids))
        else:
            gpu_id = free.pop()
            for _ in range(draw(st.integers(1, 2))):
                found.append(held(len(found) + 1, customer_id, Shape(cpu_milli, 1, 1, 400), gpu_id))
    return found


demands = st.one_of(
    st.builds(lambda gpus, cpu_milli: Demand(Shape(cpu_milli, 1, gpus)), st.integers(0, 4), st.integers(0, 12_000)),
    st.builds(lambda cpu_milli: Demand(Shape(cpu_milli, 1, 1, 500)), st.integers(0, 12_000)),
)


@given(crowds(), demands, st.data())
def test_it_fits_when_they_have_gone_and_without_any_of_them_it_does_not(
    everybody: list[Held], demand: Demand, data: st.DataObject
) -> None:
    victims = data.draw(st.lists(st.sampled_from(everybody), unique_by=lambda h: h.request.allocation_id))
    costs = {h.request.allocation_id: data.draw(st.integers(1, 20)) for h in everybody}
    found = clear_host(room(everybody), demand, 1, victims, costs)
    best = least(demand, everybody, victims, costs)
    if found is None:
        assert best == float("inf")
        return
    gone = list(found.victims)
    assert fits(demand, 1, [h for h in everybody if h not in gone])
    for victim in gone:
        staying = [h for h in everybody if h not in gone or h is victim]
        assert not fits(demand, 1, staying), "nobody leaves for nothing"
    assert found.cost == sum(costs[h.request.allocation_id] for h in gone)
    assert found.cost <= 3 * best, "not far from the least"
    assert len(found.part.devices) == demand.shape.gpus


@pytest.mark.parametrize(
    ("costs", "expected"),
    [([40, 11, 12, 13], [2, 3, 4]), ([30, 11, 12, 13], [1]), ([40, 11, 12, 20], [1])],
    ids=["many small ones", "one large one", "too many small ones"],
)
def test_the_cheaper_of_one_large_and_many_small_ones(costs: list[int], expected: list[int]) -> None:
    everybody = [held(1, 2, Shape(0, 1, 3), 0, 1, 2), *(held(n, 2, Shape(0, 1, 1), n + 1) for n in (2, 3, 4))]
    found = clear_host(room(everybody), Demand(Shape(0, 1, 3)), 1, everybody, dict(enumerate(costs, start=1)))
    assert found is not None
    assert sorted(victim.request.allocation_id for victim in found.victims) == expected
