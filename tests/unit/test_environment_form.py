"""The environment form's fields as options of a start."""

from pathlib import Path

import pytest

import hub
from api.environments.schemas import EnvironmentCreate
from hub.environment_form import MORE_OPTIONS, parse_form
from hub.spawn_errors import SpawnRefused


def form(**fields: str) -> dict[str, list[str]]:
    return {"image": ["base"], "gpus": ["1"]} | {key: [value] for key, value in fields.items()}


def test_units_are_converted() -> None:
    options = parse_form(form(gpu_model="A100-80GB", cpus="1.5", memory_gib="0.5"))
    assert options == {
        "image": "base", "gpus": 1, "gpu_models": ["A100-80GB"], "cpu_milli": 1500, "memory_bytes": 2**29
    }  # fmt: skip


def test_defaults_are_left_to_the_platform() -> None:
    assert parse_form(form(cpus="", memory_gib=" ")) == {"image": "base", "gpus": 1}


def test_a_share_of_a_gpu_is_in_thousandths() -> None:
    assert parse_form(form(gpus="0.46")) == {"image": "base", "gpus": 1, "gpu_milli": 460}


def test_more_options_are_those_that_were_filled_in() -> None:
    assert parse_form(form(**dict.fromkeys(MORE_OPTIONS, "") | {"priority": "0"})) == {"image": "base", "gpus": 1}
    filled = form(
        gpu_model="A100", other_models="H100, B200,", labels=" region=eu, !spot", driver="550.54", cuda="12.4",
        apart="web", gpu_memory_gib="40", disk_gib="0.25", time_limit_h="1.5", min_runtime_h="0.5", reservation="r1",
        capacity_group="gold", workspace="vision", priority="7", preemptible="1",
    )  # fmt: skip
    assert parse_form(filled) == {
        "image": "base", "gpus": 1, "gpu_models": ["A100", "H100", "B200"], "selectors": ["region=eu, !spot"],
        "driver": "550.54", "cuda": "12.4", "apart": "web", "gpu_memory_bytes": 40 * 2**30, "disk_bytes": 2**28,
        "time_limit_s": 5400, "min_runtime_s": 1800, "reservation": "r1", "capacity_group": "gold", "priority": 7,
        "preemptible": True, "workspace": "vision",
    }  # fmt: skip


def test_any_model_may_be_narrowed_down() -> None:
    assert parse_form(form(gpu_model="", other_models="H100"))["gpu_models"] == ["H100"]


def test_what_may_be_asked_on_the_page_is_what_the_platform_takes() -> None:
    """All of it but `gpu_model`, which `gpu_models` says too."""
    every = dict.fromkeys(MORE_OPTIONS, "1") | {"gpus": "0.5", "cpus": "1", "memory_gib": "1"}
    assert parse_form(form(**every)).keys() == EnvironmentCreate.model_fields.keys() - {
        "name",
        "gpu_model",
    }
    template = (Path(hub.__file__).parent / "templates" / "spawn.html").read_text()
    assert all(f'"{name}"' in template for name in MORE_OPTIONS)


def test_an_existing_environment_starts_as_it_was() -> None:
    assert parse_form(form(existing="1")) == {}


@pytest.mark.parametrize(
    "fields",
    [{"gpus": value} for value in ("0", "-1", "1.5", "0.0001", "x", "nan", "inf", "1e9", "\u0661\x00")]
    + [{"cpus": value} for value in ("0", "-2", "99999", "NaN")]
    + [{"memory_gib": value} for value in ("0", "1e30", "-Infinity")]
    + [{"priority": value} for value in ("-1", "1.5", "1001")]
    + [{"time_limit_h": value} for value in ("0", "9000", "soon")]
    + [{"min_runtime_h": "-1"}, {"disk_gib": "0.1"}]
    + [{"image": ""}],
)
def test_bad_fields_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(SpawnRefused) as refused:
        parse_form(form(**fields))
    assert refused.value.status_code == 400
