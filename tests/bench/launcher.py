"""`remotegpud up` where everything is installed, and a container's exit until its GPU is free."""

import subprocess
import time

from tests.bench.figures import Figure, median
from tests.bench.world import World, wait_until_answers, world

_ROUNDS = 3
_EXITS = 7
_TIMEOUT_S = 30.0


def run() -> list[Figure]:
    with world() as here:
        return [_free(here), _up(here)]


def _up(here: World) -> Figure:
    samples = []
    for _ in range(_ROUNDS):
        here.platform.down()
        began = time.monotonic()
        here.platform.up()
        samples.append(time.monotonic() - began)
    return Figure("up on a machine that has everything", median(samples), "s", 25.0, True, {"up_s": samples})


def _free(here: World) -> Figure:
    """From the container's exit, as Docker stamps it, to the allocation's release."""
    samples = []
    for number in range(_EXITS):
        environment = here.owner.environments.create(name=f"exit-{number}", image="base", gpu_model="A100")
        wait_until_answers(f"{environment.url}api")
        container = str(here.container_of(environment.id)["Id"])
        began = time.monotonic()
        subprocess.run(["docker", "kill", container], capture_output=True, check=True)
        _wait_free(here)
        samples.append(time.monotonic() - began)
        here.owner.environments.delete(environment.id)
    return Figure("container exit to GPU free", median(samples), "s", 2.0, True, {"free_s": samples})


def _wait_free(here: World) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while sum(offer.free for offer in here.owner.account.offers()) < 8:
        if time.monotonic() > deadline:
            raise TimeoutError("the GPU was not free again")
        time.sleep(0.01)
