"""How the engine decides, as an operator sets it: `REMOTEGPU_SCHEDULER_*` environment variables of the controller."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated

from pydantic import Field, FiniteFloat, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.settings import Settings
from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.json_values import Json, decode
from scheduler.packing.scoring import PackingPolicy, make_scoring

_DEFAULTS = EngineSettings()
_PACKING = "packing"

_Seconds = Annotated[FiniteFloat, Field(ge=0)]
_Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]


class SchedulingSettings(BaseSettings):
    """docs/explanation/scheduling.md says what each rule is for, docs/explanation/packing.md what the policies do."""

    model_config = SettingsConfigDict(env_prefix="REMOTEGPU_SCHEDULER_", frozen=True)

    packing: PackingPolicy = PackingPolicy.FRAGMENTATION
    patience_s: _Seconds = _DEFAULTS.patience_s
    """A request waits for room so long before others are evicted for it."""
    ageing_step_s: Annotated[FiniteFloat, Field(gt=0)] = _DEFAULTS.ageing_step_s
    """Each such time of waiting raises a request's priority by `ageing_points`."""
    ageing_points: Annotated[int, Field(ge=0, le=1000)] = _DEFAULTS.ageing_points
    kept_places: Annotated[int, Field(ge=0, le=1000)] = _DEFAULTS.kept_places
    """So many blocked requests have a place and a time kept for them."""
    topology: tuple[_Label, ...] = _DEFAULTS.topology
    """Host labels that gangs are packed by, the closest level first; as JSON."""

    def engine_settings(self, platform: Settings) -> EngineSettings:
        """With what other parts of the platform have to know too."""
        return EngineSettings(
            half_life_s=platform.fair_share_half_life_s,
            grace_s=platform.stop_grace_s,
            patience_s=self.patience_s,
            ageing_step_s=self.ageing_step_s,
            ageing_points=self.ageing_points,
            kept_places=self.kept_places,
            topology=self.topology,
        )


def make_engine(settings: EngineSettings, packing: PackingPolicy) -> Engine:
    return Engine(settings, partial(make_scoring, packing))


def recorded(settings: EngineSettings, packing: PackingPolicy) -> Mapping[str, Json]:
    """All that an engine is made of, for a recording of it."""
    return {**asdict(settings), _PACKING: str(packing)}


def engine_of(record: Mapping[str, Json]) -> Engine:
    """The engine that `recorded` tells of.

    Raises:
        ValueError: it tells of something else.
    """
    settings = {key: value for key, value in record.items() if key != _PACKING}
    packing = PackingPolicy(record.get(_PACKING, PackingPolicy.FRAGMENTATION))
    return make_engine(decode(EngineSettings, settings), packing)
