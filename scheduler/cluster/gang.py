"""Hosts for all nodes of a request, as close together as it gets: the lowest level of topology that takes them all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.packing.rooms import Floats, Ints, Mask


@dataclass(frozen=True, slots=True)
class Field:
    """The pools that a request may use, a row each: `score` is infinite where it does not fit now.

    All nodes get pools of one `kind` (GPU model). `room` is what is free there, whether or not it fits.
    """

    score: Floats
    kind: Ints
    room: Ints
    rank: Ints


def choose(field: Field, levels: Sequence[Ints], nodes: int, *, anywhere: bool) -> Ints | None:
    """Rows of `field` for the nodes, the best scores of one group; None if no group has enough.

    `levels` have the number of each row's group, 0 for none, lowest level first; after them, with `anywhere`, all
    are one group. Of the groups of a level that take all nodes, it is the one with the least room.
    """
    fitting: Mask = np.isfinite(field.score)
    everything = [np.ones(len(field.score), dtype=np.int64)] if anywhere else []
    for level in [*levels, *everything]:
        group = _tightest(field, level, fitting, nodes)
        if group is not None:
            order = np.lexsort((field.rank[group], field.score[group]))
            return group[order[:nodes]]
    return None


def _tightest(field: Field, level: Ints, fitting: Mask, nodes: int) -> Ints | None:
    """The fitting rows of the group."""
    grouped = np.flatnonzero(level > 0)
    if not len(grouped):
        return None
    keys = field.kind[grouped] * (int(level.max()) + 1) + level[grouped]
    _, group = np.unique(keys, return_inverse=True)
    fits = np.bincount(group, weights=fitting[grouped])
    room = np.bincount(group, weights=field.room[grouped])
    enough = np.flatnonzero(fits >= nodes)
    if not len(enough):
        return None
    best = min(enough, key=lambda each: (room[each], int(field.rank[grouped[group == each]].min())))
    rows = grouped[group == best]
    chosen: Ints = rows[fitting[rows]]
    return chosen
