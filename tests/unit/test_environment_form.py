"""The environment form's fields as options of a start."""

import pytest

from hub.environment_form import parse_form
from hub.spawn_errors import SpawnRefused


def form(**fields: str) -> dict[str, list[str]]:
    return {"image": ["base"], "gpus": ["1"]} | {key: [value] for key, value in fields.items()}


def test_units_are_converted() -> None:
    options = parse_form(form(gpu_model="A100-80GB", cpus="1.5", memory_gib="0.5"))
    assert options == {
        "image": "base", "gpus": 1, "gpu_model": "A100-80GB", "cpu_milli": 1500, "memory_bytes": 2**29
    }  # fmt: skip


def test_defaults_are_left_to_the_platform() -> None:
    assert parse_form(form(cpus="", memory_gib=" ")) == {"image": "base", "gpus": 1}


def test_a_share_of_a_gpu_is_in_thousandths() -> None:
    assert parse_form(form(gpus="0.46")) == {"image": "base", "gpus": 1, "gpu_milli": 460}


def test_more_options_are_those_that_were_filled_in() -> None:
    empty = dict.fromkeys(("labels", "cuda", "gpu_memory_gib", "time_limit_h", "reservation", "capacity_group"), "")
    assert parse_form(form(**empty, priority="0")) == {"image": "base", "gpus": 1}
    filled = form(
        labels=" region=eu, !spot", cuda="12.4", gpu_memory_gib="40", time_limit_h="1.5", reservation="r1",
        capacity_group="gold", priority="7", preemptible="1",
    )  # fmt: skip
    assert parse_form(filled) == {
        "image": "base", "gpus": 1, "selectors": ["region=eu, !spot"], "cuda": "12.4", "gpu_memory_bytes": 40 * 2**30,
        "time_limit_s": 5400, "reservation": "r1", "capacity_group": "gold", "priority": 7, "preemptible": True,
    }  # fmt: skip


def test_an_existing_environment_starts_as_it_was() -> None:
    assert parse_form(form(existing="1")) == {}


@pytest.mark.parametrize(
    "fields",
    [{"gpus": value} for value in ("0", "-1", "1.5", "0.0001", "x", "nan", "inf", "1e9", "\u0661\x00")]
    + [{"cpus": value} for value in ("0", "-2", "99999", "NaN")]
    + [{"memory_gib": value} for value in ("0", "1e30", "-Infinity")]
    + [{"priority": value} for value in ("-1", "1.5", "1001")]
    + [{"time_limit_h": value} for value in ("0", "9000", "soon")]
    + [{"image": ""}],
)
def test_bad_fields_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(SpawnRefused) as refused:
        parse_form(form(**fields))
    assert refused.value.status_code == 400
