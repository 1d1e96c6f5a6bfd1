"""Quota arithmetic."""

import pytest

from scheduler.quota import Lack, Limits, Resources, lease_lack, model_lack, shortage

NOTHING = Resources(0, 0, 0)


def test_no_limit_is_no_limit() -> None:
    assert shortage(Limits(), held=Resources(10**6, 10**9, 10**18), asked=Resources(1, 1, 1)) is None


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (Limits(gpus=5), "GPUs"),
        (Limits(cpu_milli=5), "CPU"),
        (Limits(memory_bytes=5), "memory"),
        (Limits(allocations=5), "at once"),
    ],
)
def test_up_to_the_limit_and_not_beyond(limits: Limits, word: str) -> None:
    assert shortage(limits, held=Resources(3, 3, 3, 3), asked=Resources(2, 2, 2, 2)) is None
    assert word in (shortage(limits, held=Resources(3, 3, 3, 3), asked=Resources(3, 3, 3, 3)) or "")
    assert word in (shortage(limits, held=NOTHING, asked=Resources(6, 6, 6, 6)) or "")


def test_who_asks_for_none_of_it_is_not_kept_back_by_a_lowered_limit() -> None:
    assert shortage(Limits(gpus=1), held=Resources(3, 3, 3), asked=Resources(0, 1, 1)) is None


def test_a_limit_by_model_counts_all_models_with_its_words() -> None:
    held = {"NVIDIA A100-SXM4-80GB": 2, "NVIDIA A100-PCIE-40GB": 1, "NVIDIA H100 80GB HBM3": 4}
    limits = Limits(gpu_models={"A100": 4, "A100-80GB": 3})
    assert model_lack(limits, "NVIDIA A100-SXM4-80GB", held=held, gpus=1) is None
    found = model_lack(limits, "NVIDIA A100-SXM4-80GB", held=held, gpus=2)
    assert found == Lack("gpu_models", 4, 3, 2, None, "A100")
    kept = model_lack(limits, "NVIDIA A100-SXM4-80GB", held=held, gpus=1, kept={"A100-80GB": 1})
    assert kept == Lack("gpu_models", 3, 3, 1, None, "A100-80GB")
    assert model_lack(limits, "NVIDIA H100 80GB HBM3", held=held, gpus=99) is None


def test_a_lease_needs_an_end() -> None:
    limits = Limits(lease_s=60)
    assert lease_lack(limits, 60) is None and lease_lack(Limits(), None) is None
    assert "60 seconds for a lease, and 61 were asked for" in sentence(lease_lack(limits, 61))
    assert "and it has no limit" in sentence(lease_lack(limits, None))


def sentence(found: Lack | None) -> str:
    assert found is not None
    return found.sentence
