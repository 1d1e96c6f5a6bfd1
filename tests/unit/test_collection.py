"""How rarely a process that decides looks for cyclic garbage."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from cluster.collection import collect_rarely


class Cycle:
    """Only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_garbage_already_is_freed() -> None:
    """It could not be later: what is there is not looked at any more."""
    garbage = weakref.ref(Cycle())
    collect_rarely()
    assert garbage() is None


def test_what_is_there_already_is_not_walked_through_again() -> None:
    there = Cycle()
    collect_rarely()
    assert not any(each is there for each in gc.get_objects())


def test_later_garbage_is_collected_but_not_often() -> None:
    collect_rarely()
    garbage, before = weakref.ref(Cycle()), collections()
    some: list[list[int]] = [[] for _ in range(40_000)]
    assert collections() == before
    some += [[] for _ in range(20_000)]
    assert collections() == before + 1
    assert garbage() is None


def collections() -> int:
    return sum(int(generation["collections"]) for generation in gc.get_stats())
