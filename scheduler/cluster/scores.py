"""How good each pool is for a shape, as the scoring policy sees it, remembered while nothing there has changed."""

from dataclasses import dataclass, field

import numpy as np

from scheduler.cluster.pools import Pools
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.rooms import NO_DEVICE, Floats, Ints, Mask, options
from scheduler.packing.scoring import Scale, Scoring
from scheduler.packing.shape import Shape

_MAX_KNOWN = 2**22  # scores remembered at most: about 100 MB
_NEVER = -1  # no state of a row
_FEW = 8  # rows, as after a placement: looked up one by one rather than scored together
_MAX_RECALLED = 4096  # of one shape
_SHARED_FIRST = 1e6  # more than any score


@dataclass(frozen=True, slots=True)
class Best:
    """The score of each pool, infinite where the shape does not fit, and the column of the device that is shared."""

    score: Floats
    device: Ints


@dataclass(slots=True)
class _Known:
    score: Floats
    device: Ints
    state: Ints
    basis: tuple[int, int, Scale]
    recalled: dict[tuple[int, int, bytes], float] = field(default_factory=dict)  # by what is free


class Scores:
    """The policy's score of every pool, per shape and, for shares of a device, per customer."""

    def __init__(self, pools: Pools, scoring: Scoring) -> None:
        self._pools = pools
        self._scoring = scoring
        self._known: dict[tuple[Shape, int | None], _Known] = {}
        self._scale = Scale(1, 1)
        self._scaled_at = -1

    def best(self, shape: Shape, sharing: int | None) -> Best:
        """`sharing` is the customer, if it has parts of devices that it could share with this request too."""
        fresh = self._refreshed(shape, None)
        if sharing is None or shape.milli == MILLI_PER_GPU or not shape.gpus:
            return Best(fresh.score, fresh.device)
        shared = self._refreshed(shape, sharing)
        score = shared.score - (_SHARED_FIRST if self._scoring.joins_shared else 0.0)
        better = score < fresh.score
        return Best(np.where(better, score, fresh.score), np.where(better, shared.device, NO_DEVICE))

    def _refreshed(self, shape: Shape, customer_id: int | None) -> _Known:
        state = self._pools.table.state
        known = self._remembered(shape, customer_id)
        stale = np.flatnonzero(known.state != state)
        if len(stale):
            if len(stale) <= _FEW and shape.milli == MILLI_PER_GPU and self._scoring.version >= 0:
                self._recall(shape, known, stale)
            else:
                self._score(shape, customer_id, known, stale)
            known.state[stale] = state[stale]
        return known

    def _recall(self, shape: Shape, known: _Known, rows: Ints) -> None:
        """Hosts come to be equally free again and again. Of whole devices it does not matter which are."""
        table = self._pools.table
        for row in rows.tolist():
            key = int(table.cpu[row]), int(table.memory[row]), np.sort(table.gpus[row]).tobytes()
            score = known.recalled.get(key)
            if score is not None:
                known.score[row] = score
                continue
            self._score(shape, None, known, rows[rows == row])
            if len(known.recalled) >= _MAX_RECALLED:
                known.recalled.clear()
            known.recalled[key] = float(known.score[row])

    def _remembered(self, shape: Shape, customer_id: int | None) -> _Known:
        key = shape, customer_id
        version = self._scoring.version
        basis = version, self._pools.table.height, self._current_scale()
        known = self._known.pop(key, None)
        if known is None or known.basis != basis or version < 0:
            height = self._pools.table.height
            known = _Known(np.full(height, np.inf), np.full(height, NO_DEVICE), np.full(height, _NEVER), basis)
        self._known[key] = known  # the last used is the last
        if len(self._known) * self._pools.table.height > _MAX_KNOWN and len(self._known) > 2:
            del self._known[next(iter(self._known))]
        return known

    def _score(self, shape: Shape, customer_id: int | None, known: _Known, rows: Ints) -> None:
        table = self._pools.table
        known.score[rows] = np.inf
        free = table.free.take(rows)
        usable: Mask | None = None
        if shape.gpus and shape.milli < MILLI_PER_GPU:
            whole = free.gpus == MILLI_PER_GPU
            # Of whole devices one is like the other.
            usable = whole & (whole.cumsum(axis=1) == 1) if customer_id is None else table.owner[rows] == customer_id
        ways = options(free, shape, usable)
        scores = self._scoring.score(ways, shape, self._scale)
        # The first of the best of each pool: sorted by pool, then score, then device.
        order = np.lexsort((ways.device, scores, ways.row))
        pools, first = np.unique(ways.row[order], return_index=True)
        best = order[first]
        known.score[rows[pools]] = scores[best]
        known.device[rows[pools]] = ways.device[best]

    def _current_scale(self) -> Scale:
        if self._scaled_at != self._pools.views:
            table = self._pools.table
            cpu, devices = int(table.largest_cpu.max(initial=0)), int(table.count.max(initial=0))
            self._scale, self._scaled_at = Scale(max(cpu, 1), max(devices * MILLI_PER_GPU, 1)), self._pools.views
        return self._scale
