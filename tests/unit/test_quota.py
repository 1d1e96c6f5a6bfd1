"""Quota arithmetic."""

import pytest

from scheduler.quota import Limits, Resources, shortage

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
