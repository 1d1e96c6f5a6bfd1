"""An array of a thousand `true`: how many elements a second, from its submission to its end."""

import time

from tests.bench.figures import Figure, median
from tests.bench.world import World, world

_ELEMENTS = 1000
_ROUNDS = 3
_TIMEOUT_S = 120.0
_BOUND = 50.0  # three times what a well-known batch system does on such a machine without containers


def run() -> list[Figure]:
    with world() as here:
        _seconds(here, 8)  # the image, the network and the pools are there afterwards, as they usually are
        samples = [_ELEMENTS / _seconds(here, _ELEMENTS) for _ in range(_ROUNDS)]
    return [Figure("array of 1,000 elements", median(samples), "1/s", _BOUND, False, {"elements_per_s": samples})]


def _seconds(here: World, elements: int) -> float:
    began = time.monotonic()
    task = here.owner.tasks.run(
        "true", image="base", resources={"gpus": 0, "cpus": 0.5, "memory": "256MiB"}, array=f"0-{elements - 1}"
    )
    over = here.owner.tasks.wait(task.id, timeout_s=_TIMEOUT_S)
    took = time.monotonic() - began
    if over.state != "succeeded":
        raise RuntimeError(f"the array is {over.state}: {over.detail}")
    return took
