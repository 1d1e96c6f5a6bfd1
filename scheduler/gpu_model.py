"""GPU model names: how NVML's product names and users' short names meet.

`NVIDIA A100-SXM4-80GB`, `A100-80GB` and `A100` are the same words in decreasing precision.
"""

import re

_VENDOR_WORDS = frozenset({"NVIDIA", "GEFORCE", "TESLA", "QUADRO"})


def words(model: str) -> frozenset[str]:
    """The significant words of a model name, in upper case."""
    return frozenset(part for part in re.split(r"[\s\-_]+", model.upper()) if part) - _VENDOR_WORDS


def matches(requested: str, model: str) -> bool:
    """Whether a device of `model` satisfies a request for `requested`: each word asked for is in its name."""
    asked = words(requested)
    return bool(asked) and asked <= words(model)
