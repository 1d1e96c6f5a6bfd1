"""GPU model names: how NVML's product names and users' short names meet.

`NVIDIA A100-SXM4-80GB`, `A100-80GB` and `A100` are the same words in decreasing precision.
"""

import re
from collections.abc import Collection, Sequence

_SEPARATORS = r"[\s\-_]+"
_VENDOR_WORDS = frozenset({"NVIDIA", "GEFORCE", "TESLA", "QUADRO"})


def words(model: str) -> frozenset[str]:
    """The significant words of a model name, in upper case."""
    return frozenset(part for part in re.split(_SEPARATORS, model.upper()) if part) - _VENDOR_WORDS


def matches(requested: str, model: str) -> bool:
    """Whether a device of `model` satisfies a request for `requested`: each word asked for is in its name."""
    asked = words(requested)
    return bool(asked) and asked <= words(model)


def narrowed(requested: Sequence[str], pool: str, *, known: Collection[str]) -> tuple[str, ...]:
    """What is left of the alternatives `requested` in a pool of one model: names that only its devices match.

    Who asks for none gets the pool's. One that says more than the pool stays as it is; one that says less becomes the
    pool's; and one that says something else (`SXM4` in a pool of `A100`) gets the pool's words too, if a model among
    those `known` has them all. What is left may be nothing.
    """
    if not requested:
        return (pool,)
    left = (_both(each, pool, known) for each in requested if words(each))
    return tuple(dict.fromkeys(name for name in left if name is not None))


def _both(requested: str, pool: str, known: Collection[str]) -> str | None:
    if matches(pool, requested):
        return requested
    if matches(requested, pool):
        return pool
    missing = words(pool) - words(requested)
    joined = "-".join([requested, *(word for word in re.split(_SEPARATORS, pool.upper()) if word in missing)])
    return joined if any(matches(joined, model) for model in known) else None
