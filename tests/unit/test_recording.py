"""What the decider was told and decided is written down, read back exactly, and comes out the same again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest

from scheduler.demand import Demand, Operator, Selector
from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.json_values import Json, decode, encode
from scheduler.packing.shape import Shape
from scheduler.plan import Plan
from scheduler.ports import Changes, Eviction, Placement, WaitReason
from scheduler.prices import Rates
from scheduler.quota import Limits
from scheduler.recording import Recorder, RecordingError, Replay, replay
from scheduler.states import AllocationState, DeviceStatus, EndReason
from scheduler.views import (
    CapacityGroup,
    CustomerView,
    DeviceView,
    Held,
    HostView,
    IdleGroup,
    Part,
    Request,
    Reservation,
    Usage,
)
from tests.unit.simulated_world import A100, H100, START, World, host


@dataclass
class Kept:
    """Lines in memory; a new recording begins whenever the last one has `most` lines."""

    most: int = 10**9
    recordings: list[list[str]] = field(default_factory=list)

    @property
    def wants_begin(self) -> bool:
        return not self.recordings or len(self.recordings[-1]) >= self.most

    def begin(self) -> None:
        self.recordings.append([])

    def write(self, line: str) -> None:
        self.recordings[-1].append(line)


def make(settings: Mapping[str, Json]) -> Engine:
    return Engine(decode(EngineSettings, settings))


def recorded(seed: int, *, most: int = 10**9, settings: EngineSettings | None = None) -> list[list[str]]:
    """Some minutes of a busy little cluster, with preemption, refusals, shares, gangs, ends and a lost host."""
    chosen, kept, random = settings or EngineSettings(), Kept(most), Random(seed)
    hosts = [host(number, *[A100 if number % 2 else H100] * 4) for number in range(1, 7)]
    world = World(lambda: Engine(chosen), *hosts)
    world.scheduler.recorder = Recorder(kept, asdict(chosen))
    world.database.add_customer(CustomerView(1, limits=Limits(gpus=6)))
    world.database.set_groups([CapacityGroup("g", None, 4000, borrowing_limit=4000)])
    for number in range(1, 60):
        world.submit(
            number,
            customer_id=random.randint(1, 3),
            gpus=random.choice((1, 1, 2, 4)),
            nodes=random.choice((1, 1, 1, 2)),
            priority=random.choice((0, 0, 100)),
            preemptible=random.random() < 0.5,
            models=random.choice(((), ("A100",), ("H100", "A100"))),
            group=random.choice((None, None, "g")),
            limit_s=random.choice((None, 60)),
        )
        if number == 40:
            world.database.set_status(2, DeviceStatus.UNREACHABLE)
        if number % 10 == 0:
            # Lowered behind the loop's back: the store refuses what the engine thinks fits.
            world.database.customers[2] = CustomerView(2, limits=Limits(gpus=random.randint(1, 6)))
        world.pass_time(random.choice((0.1, 3, 7)))
        world.work()
        active = [n for n, a in world.database.allocations.items() if a.state is AllocationState.ACTIVE]
        for ended in random.sample(active, len(active) // 4):
            world.database.request_end(ended, EndReason.COMPLETED)
    return kept.recordings


@pytest.fixture(scope="module")
def lines() -> list[str]:
    (found,) = recorded(1)
    return found


def test_a_fresh_engine_decides_the_same(lines: list[str]) -> None:
    found = replay(lines, make)
    assert found.difference is None
    assert found.plans > 60
    assert found.placements > 30
    assert found.evictions > 0
    assert sum("refused" in json.loads(line) for line in lines) > 0


def test_every_recording_can_be_replayed_by_itself() -> None:
    found = recorded(2, most=60)
    assert len(found) > 2
    for each in found:
        assert replay(each, make).difference is None


def test_the_settings_belong_to_it() -> None:
    (patient,) = recorded(1, settings=EngineSettings(patience_s=20))
    assert replay(patient, make).difference is None
    other = replay(patient, lambda _: Engine())
    assert other.difference is not None


def test_the_first_difference_is_named(lines: list[str]) -> None:
    placing = [number for number, line in enumerate(lines) if '"placements"' in line]
    number = placing[3]
    document = json.loads(lines[number])
    document["plan"]["placements"][0]["allocation_id"] += 1000
    found = replay([*lines[:number], json.dumps(document), *lines[number + 1 :]], make)
    assert found.difference is not None
    assert found.difference.line == number + 1
    assert found.difference.where == "plan.placements[0].allocation_id"
    assert found.difference.recorded == found.difference.replayed + 1000


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([], "line 1: it is empty"),
        (["{"], "line 1: "),
        (['{"now":"2026-01-01T00:00:00+00:00","plan":{}}'], "line 1: it does not begin"),
        (['{"format":99,"settings":{}}'], "line 1: format 99"),
        (['{"format":2,"settings":{}}', '{"now":"yesterday","plan":{}}'], "line 2: "),
        (['{"format":2,"settings":{}}', '{"now":"2026-01-01T00:00:00+00:00","changes":{"hosts":[{"a":1}]}}'], "line 2"),
    ],
)
def test_what_is_no_recording_is_told(bad: list[str], said: str) -> None:
    with pytest.raises(RecordingError, match=said):
        replay(bad, make)


SHAPE = Shape(1000, 2**30, 2, 1000)
DEMAND = Demand(
    SHAPE,
    nodes=2,
    models=("A100", "H100"),
    gpu_memory_bytes=1,
    selectors=(Selector("region", Operator.IN, ("eu", "us")), Selector("nvlink", Operator.EXISTS)),
    driver=(550, 54),
    cuda=(12,),
    bound_host_id=3,
    apart="db",
    within="rack",
    image="base:1",
)
REQUEST = Request(
    1, "u", 2, 3, DEMAND, START, 100, "g", True, 60, 3600, 7200, START + timedelta(microseconds=1), reservation_id=4
)
PARTS = (Part(1, ((10, 1000), (11, 1000))), Part(2, ()))
CHANGES = Changes(
    complete=True,
    hosts=(
        HostView(
            1,
            "uid",
            "name",
            64_000,
            2**40,
            (DeviceView(10, "GPU-0", A100, 80, frozenset({11, 12})), DeviceView(11, "GPU-1", A100, 80)),
            why_not="it is draining",
            labels={"rack": "r1"},
            driver=(1, 2),
            cuda=(3,),
            images=frozenset({"b", "a"}),
        ),
    ),
    hosts_gone=(7, 8),
    queued=(REQUEST,),
    held=(Held(REQUEST, AllocationState.RELEASING, 3, PARTS, START, checkpoint_at=START),),
    gone=(9,),
    customers=(
        CustomerView(2, 0.1 + 0.2, Limits(1, 2, 3, 4), 5, {A100: Rates(6, 5, 4)}, True, {"g": {A100: Rates.of(3)}}),
    ),
    usage=(Usage(2, 3, START, 1e-300, 2.5, 1 / 3),),
    groups=(CapacityGroup("g", "c", 1, 2, 3, False, False),),
    reservations=(Reservation(1, 2, START, START + timedelta(days=1), PARTS, 5, 6),),
    idle_groups=(IdleGroup("rg", 1, frozenset({10, 11}), 5, 6),),
)
PLAN = Plan(
    (Placement(1, PARTS),),
    (Eviction(2, 3, 1, "because"),),
    {4: WaitReason("no_capacity", "full", 2, {"free": 0}, START, "limits")},
    unfinished=True,
)


@pytest.mark.parametrize("value", [CHANGES, Changes(), Changes(groups=()), PLAN, Plan()])
def test_a_value_is_read_back_exactly(value: Changes | Plan) -> None:
    text = json.dumps(encode(value))
    assert decode(type(value), json.loads(text)) == value
    assert json.dumps(encode(decode(type(value), json.loads(text)))) == text


def test_no_list_at_all_is_told_from_an_empty_one() -> None:
    assert encode(Changes()) == {}
    assert encode(Changes(groups=())) == {"groups": []}


def test_moments_keep_their_zone() -> None:
    moment = datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    assert decode(datetime, encode(moment)).utcoffset() == timedelta(hours=2)
    assert encode(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00+00:00"


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no form"):
        encode(object())
    with pytest.raises(ValueError, match="this is no Plan"):
        decode(Plan, {"placements": [{"nothing": 1}]})
    assert isinstance(replay(['{"format":2,"settings":{}}'], make), Replay)
