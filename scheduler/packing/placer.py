"""Finds the best place for a shape, remembering for each shape what it found on hosts that have not changed since."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.money import MILLI_PER_GPU
from scheduler.packing.rooms import NO_DEVICE, Floats, Ints, Mask, Rooms, options
from scheduler.packing.scoring import Scale, Scoring
from scheduler.packing.shape import Shape

_MAX_SHAPES = 4096  # remembered at most


@dataclass(frozen=True, slots=True)
class Spot:
    """A host by its row, and the columns of its devices."""

    row: int
    devices: tuple[int, ...]


@dataclass(slots=True)
class _Known:
    """Of one shape: the best score on each host (infinite where it does not fit), the device, and when that was so."""

    score: Floats
    device: Ints
    at: Ints
    scoring_version: int


class Placer:
    """Hosts and what is free on them. `change` and `take` are the only ways in which that changes."""

    def __init__(self, rooms: Rooms, scoring: Scoring, scale: Scale) -> None:
        self.rooms = rooms
        self._scoring = scoring
        self._scale = scale
        self._changed_at = np.zeros(len(rooms.cpu), dtype=np.int64)
        self._now = 0
        self._known: dict[Shape, _Known] = {}

    def observe(self, shape: Shape) -> None:
        """A request of this shape has arrived."""
        self._scoring.observe(shape)

    def find(self, shape: Shape, allowed: Mask | None = None) -> Spot | None:
        """The best place among the `allowed` hosts; None if it fits on none of them."""
        known = self._refresh(shape)
        score = known.score if allowed is None else np.where(allowed, known.score, np.inf)
        row = int(np.argmin(score)) if len(score) else 0
        if not len(score) or not np.isfinite(score[row]):
            return None
        return Spot(row, self._devices(row, shape, int(known.device[row])))

    def take(self, shape: Shape, spot: Spot) -> None:
        """
        Raises:
            ValueError: there is not so much free.
        """
        gpus = self.rooms.gpus[spot.row].copy()
        gpus[list(spot.devices)] -= shape.milli
        self.change(
            spot.row,
            cpu_milli=int(self.rooms.cpu[spot.row]) - shape.cpu_milli,
            memory_bytes=int(self.rooms.memory[spot.row]) - shape.memory_bytes,
            gpus=gpus.tolist(),
        )

    def change(self, row: int, *, cpu_milli: int, memory_bytes: int, gpus: Sequence[int]) -> None:
        """What is free on a host from now on.

        Raises:
            ValueError: it is less than nothing.
        """
        if cpu_milli < 0 or memory_bytes < 0 or min(gpus, default=0) < 0:
            raise ValueError(f"host {row} would have less than nothing free")
        self.rooms.cpu[row], self.rooms.memory[row] = cpu_milli, memory_bytes
        self.rooms.gpus[row, : len(gpus)] = gpus
        self._now += 1
        self._changed_at[row] = self._now

    def _devices(self, row: int, shape: Shape, device: int) -> tuple[int, ...]:
        if device != NO_DEVICE:
            return (device,)
        free = np.flatnonzero(self.rooms.gpus[row] == MILLI_PER_GPU)
        return tuple(int(column) for column in free[: shape.gpus])

    def _refresh(self, shape: Shape) -> _Known:
        known = self._known.get(shape)
        version = self._scoring.version
        if known is None or known.scoring_version != version or version < 0:
            known = self._forgotten(shape, version)
        stale = np.flatnonzero(known.at < self._changed_at)
        if len(stale):
            self._score(shape, known, stale)
            known.at[stale] = self._now
        return known

    def _forgotten(self, shape: Shape, version: int) -> _Known:
        if shape not in self._known and len(self._known) >= _MAX_SHAPES:
            del self._known[next(iter(self._known))]
        count = len(self._changed_at)
        self._known[shape] = _Known(np.full(count, np.inf), np.zeros(count, np.int64), np.full(count, -1), version)
        return self._known[shape]

    def _score(self, shape: Shape, known: _Known, rows: Ints) -> None:
        ways = options(self.rooms.take(rows), shape)
        scores = self._scoring.score(ways, shape, self._scale)
        known.score[rows] = np.inf
        # The first of the best of each host: sorted by host, then score, then device.
        order = np.lexsort((ways.device, scores, ways.row))
        hosts, first = np.unique(ways.row[order], return_index=True)
        best = order[first]
        known.score[rows[hosts]] = scores[best]
        known.device[rows[hosts]] = ways.device[best]
