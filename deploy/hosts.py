"""The hosts of this machine: joined once, through the same endpoint as hosts anywhere else."""

import re
import socket
from dataclasses import dataclass

from deploy.progress import StepError

_SIMULATION = re.compile(r"([1-9][0-9]?)x([1-9][0-9]?):([A-Za-z0-9][A-Za-z0-9-]{0,60})")


@dataclass(frozen=True, slots=True)
class LocalHost:
    """`simulate` is `GPUS:MODEL`, or None for the GPUs that NVML finds."""

    name: str
    simulate: str | None


def wanted_hosts(simulate: str | None) -> list[LocalHost]:
    """The hosts for `HOSTSxGPUS:MODEL`, or this machine itself.

    Raises:
        StepError: the description can't be read.
    """
    if simulate is None:
        return [LocalHost(socket.gethostname(), None)]
    found = _SIMULATION.fullmatch(simulate)
    if found is None:
        raise StepError(f"--simulate {simulate!r} can't be read: give HOSTSxGPUS:MODEL, as in 2x4:A100-80GB")
    hosts, gpus, model = int(found[1]), int(found[2]), found[3]
    return [LocalHost(f"sim-{number}", f"{gpus}:{model}") for number in range(1, hosts + 1)]
