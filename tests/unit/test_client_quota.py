"""Limits of quotas as people type and read them."""

import pytest
import typer

from remotegpu.cli import limits


def test_what_is_given_changes_and_the_rest_stays() -> None:
    now = {"gpus": 8, "queued": 5, "gpu_models": {"H100": 4, "A100": 2}}
    given = [
        "gpus=",
        "H100=6",
        "A100=",
        "RTX-4090=1",
        "cpus=1.5",
        "memory=2GiB",
        "lease=1h30m",
        "month=12.50",
        "array=9",
    ]
    changed = limits.changed(now, given)
    assert {key: value for key, value in changed.items() if value is not None} == {
        "queued": 5, "cpu_milli": 1500, "memory_bytes": 2 * 2**30, "lease_s": 5400, "month_micro": 12_500_000,
        "array_elements": 9, "gpu_models": {"H100": 6, "RTX-4090": 1},
    }  # fmt: skip
    assert changed["gpus"] is None


@pytest.mark.parametrize("given", ["gpus", "gpus=-1", "gpus=many", "gpu=4", "=4", "H100=some", "cpus=x", "lease=1"])
def test_what_is_no_limit_is_refused(given: str) -> None:
    with pytest.raises(typer.BadParameter):
        limits.changed({}, [given])


def test_limits_are_read_with_their_use() -> None:
    lines = [
        {"limit": "gpus", "gpu_model": None, "level": "user", "most": 4, "used": 3},
        {"limit": "gpu_models", "gpu_model": "H100", "level": "customer", "most": 2, "used": 0},
        {"limit": "lease_s", "gpu_model": None, "level": "workspace", "most": 3600, "used": None},
        {"limit": "volume_bytes", "gpu_model": None, "level": None, "most": None, "used": 2**30},
        {"limit": "volumes", "gpu_model": None, "level": None, "most": None, "used": 0},
    ]
    assert limits.rows(lines) == [
        ("GPUs", "3", "4", "user"),
        ("H100 GPUs", 0, 2, "customer"),
        ("longest lease", None, "1h", "workspace"),
        ("size of all volumes", "1.0 GiB", None, None),
    ]
    assert limits.said({"gpus": 4, "month_micro": 5_000_000, "gpu_models": {"H100": 2}}) == (
        "GPUs 4, spent in a month 5.00, H100 2"
    )
    assert limits.said({"gpu_models": {}}) == "none"
