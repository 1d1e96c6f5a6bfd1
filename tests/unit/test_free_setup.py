"""What a task pays for its setup: nothing, as far as its own word can be believed. On a real SQLite file."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.daemon.clock import ServerClock
from node.daemon.free_setup import FREE_SETUP_MS, free_until, owed_at_end
from node.daemon.leases import HeldLease, Leases
from node.daemon.meter import Meter
from node.daemon.spool import Spool
from node.daemon.store import Store
from scheduler.host_protocol import DeviceShare, Lease, LeaseKind

START_MS = 1_700_000_000_000
STARTED_AT = "2023-11-14T22:13:20Z"
LEASE = Lease(
    "a", 1, "c", (DeviceShare("G", 1000),), 1000, 2**30, 2**30, 64, 2 * 10**12, "image", "name", kind=LeaseKind.TASK
)


class Task:
    """A run whose time the test turns, and whose container says what it likes."""

    def __init__(self, store: Store) -> None:
        self._ms, self.command_ms = START_MS, None
        self.said: int | None = None
        self._clock = ServerClock(store, "boot", boot=lambda: self._ms - START_MS + 1e6, wall=lambda: float(self._ms))
        self._clock.learn(START_MS, 1e6, 1e6)
        self._spool, self._leases = Spool(store, "boot"), Leases(store)
        self._store, self._held = store, self._leases.grant(LEASE)

    def at(self, ms: int, *, finished: bool = False, said: int | None = None) -> list[tuple[int, int]]:
        """What is billed, from the start, after Docker was asked at that time. Each time by a daemon of its own."""
        self._ms = START_MS + ms
        self.said = self.said if said is None else START_MS + said
        meter = Meter(self._store, self._spool, self._clock, self._leases, lambda _: self.said)
        finished_at = f"2023-11-14T22:{13 + (20_000 + ms) // 60_000:02}:{(20_000 + ms) % 60_000 / 1000:06.3f}Z"
        state: dict[str, Any] = {"StartedAt": STARTED_AT, "Running": not finished}
        state["FinishedAt"] = finished_at if finished else "0001-01-01T00:00:00Z"
        held: HeldLease = self._held
        meter.observe({"Id": "c", "State": state}, self._ms, held)
        windows = self._spool.read(100).windows
        return [(window.from_ms - START_MS, window.to_ms - START_MS) for window in windows]


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    store = Store(tmp_path / "spool.sqlite")
    yield Task(store)
    store.close()


def test_setup_is_free_and_the_command_is_billed_to_the_millisecond(task: Task) -> None:
    assert task.at(20_000) == []
    assert task.at(34_000, said=30_000) == []
    assert task.at(36_000) == [(30_000, 36_000)]
    assert task.at(90_000, finished=True) == [(30_000, 36_000), (36_000, 90_000)]


def test_a_command_that_ran_for_less_than_its_setup_pays_for_the_difference(task: Task) -> None:
    task.at(40_000, said=30_000)
    assert task.at(50_000, finished=True) == [(30_000, 40_000), (40_000, 50_000), (0, 10_000)]


def test_a_setup_that_leads_nowhere_is_paid_for(task: Task) -> None:
    task.at(20_000)
    assert task.at(50_000, finished=True) == [(0, 50_000)]


def test_a_setup_without_an_end_is_billed_from_the_bound_on(task: Task) -> None:
    assert task.at(FREE_SETUP_MS - 1) == []
    assert task.at(FREE_SETUP_MS + 10_000) == [(FREE_SETUP_MS, FREE_SETUP_MS + 10_000)]
    # What is said afterwards changes nothing.
    assert task.at(FREE_SETUP_MS + 20_000, said=FREE_SETUP_MS + 19_000)[-1] == (
        FREE_SETUP_MS + 10_000,
        FREE_SETUP_MS + 20_000,
    )


def test_an_environment_is_billed_from_its_start(tmp_path: Path) -> None:
    store = Store(tmp_path / "spool.sqlite")
    task = Task(store)
    task._held = replace(task._held, lease=replace(LEASE, kind=LeaseKind.ENVIRONMENT))
    assert task.at(6_000) == [(0, 6_000)]
    store.close()


@given(st.integers(0, 10**6), st.none() | st.integers(-(10**6), 2 * 10**6), st.integers(0, 10**6))
def test_no_word_saves_more_than_the_bounds(first_ms: int, said_ms: int | None, more_ms: int) -> None:
    """Whatever the container says, and whenever it is heard."""
    ended = first_ms + more_ms
    free = free_until(started_ms=0, now_ms=first_ms, command_ms=said_ms, over=False)
    if free is None:
        free = free_until(started_ms=0, now_ms=ended, command_ms=said_ms, over=True)
    assert free is not None and 0 <= free <= min(ended, FREE_SETUP_MS)
    owed = owed_at_end(started_ms=0, free_ms=free, ended_ms=ended)
    billed = ended - free + (owed[1] - owed[0] if owed else 0)
    assert ended - billed <= min(FREE_SETUP_MS, ended / 2)
    assert owed is None or owed[1] <= free
