"""How often Python looks for cyclic garbage in a process that decides against the clock."""

import gc

# An engine with ten thousand requests is a large heap of long-lived objects, which a full collection walks through for
# tenths of a second, and hardly any of its garbage is cyclic. A young collection costs what the young objects are.
_ALLOCATIONS = 50_000  # between two young collections
_YOUNG = 20  # of those between two middle ones
_MIDDLE = 100  # of those between two full ones


def collect_rarely() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, _YOUNG, _MIDDLE)
