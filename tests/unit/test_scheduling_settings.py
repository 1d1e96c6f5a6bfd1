"""What an operator sets of the scheduler reaches the engine, and is kept with what it decides."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.settings import Settings
from cluster.scheduling_settings import SchedulingSettings, engine_of, make_engine, recorded
from scheduler.engine.settings import EngineSettings
from scheduler.packing.scoring import PackingPolicy
from scheduler.recording import Recorder, replay
from tests.unit.simulated_world import A100, World, host
from tests.unit.test_recording import Kept

PLATFORM = Settings(database_url="postgresql://unused", secrets_dir=Path("/nonexistent"))


def test_without_a_word_it_is_as_the_engine_is() -> None:
    found = SchedulingSettings().engine_settings(PLATFORM)
    assert found == EngineSettings(half_life_s=PLATFORM.fair_share_half_life_s, grace_s=PLATFORM.stop_grace_s)


def test_what_is_set_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "PACKING": "spread", "PATIENCE_S": "0.5", "AGEING_STEP_S": "60", "AGEING_POINTS": "7", "KEPT_PLACES": "0",
        "TOPOLOGY": '["leaf", "pod"]',
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(f"REMOTEGPU_SCHEDULER_{name}", value)
    monkeypatch.setenv("REMOTEGPU_FAIR_SHARE_HALF_LIFE_S", "86400")
    monkeypatch.setenv("REMOTEGPU_STOP_GRACE_S", "3")
    platform = Settings(database_url="postgresql://unused", secrets_dir=Path("/nonexistent"))
    chosen = SchedulingSettings()
    assert chosen.packing is PackingPolicy.SPREAD
    assert chosen.engine_settings(platform) == EngineSettings(
        half_life_s=86_400,
        grace_s=3,
        patience_s=0.5,
        ageing_step_s=60,
        ageing_points=7,
        kept_places=0,
        topology=("leaf", "pod"),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PACKING", "tetris"), ("PATIENCE_S", "-1"), ("PATIENCE_S", "nan"), ("AGEING_STEP_S", "0"),
        ("AGEING_POINTS", "-1"), ("KEPT_PLACES", "-1"), ("TOPOLOGY", '["a b"]'),
    ],
)  # fmt: skip
def test_nonsense_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"REMOTEGPU_SCHEDULER_{name}", value)
    with pytest.raises(ValidationError):
        SchedulingSettings()


def lines_of(packing: PackingPolicy) -> tuple[list[str], set[int]]:
    """The recording of two requests on two hosts, and the hosts that they got."""
    settings, kept = EngineSettings(), Kept()
    world = World(lambda: make_engine(settings, packing), *(host(number, A100, A100) for number in (1, 2)))
    world.scheduler.recorder = Recorder(kept, recorded(settings, packing))
    for number in (1, 2):
        world.submit(number)
        world.work()
    (lines,) = kept.recordings
    allocations = world.database.allocations.values()
    return lines, {part.host_id for allocation in allocations for part in allocation.parts}


def test_the_policy_decides_and_is_kept_with_the_decisions() -> None:
    packed, on_one = lines_of(PackingPolicy.BEST_FIT)
    spread, on_both = lines_of(PackingPolicy.SPREAD)
    assert (len(on_one), len(on_both)) == (1, 2)
    for lines in (packed, spread):
        assert replay(lines, engine_of).difference is None
    first = json.loads(spread[0])
    del first["settings"]["packing"]
    other = replay([json.dumps(first), *spread[1:]], engine_of)
    assert other.difference is not None, "as it was before policies were kept: the default one"
