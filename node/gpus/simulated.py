"""GPUs for machines that have none. They are marked everywhere, and report nothing that would have to be invented."""

import re
import uuid

from node.gpus.provider import DriverFacts
from scheduler.host_protocol import GpuFacts, GpuReading

_SPEC = re.compile(r"([1-9][0-9]?):([A-Za-z0-9][A-Za-z0-9-]{0,60})")
_SIZE = re.compile(r"(?:^|-)([0-9]{1,4})GB(?:-|$)", re.IGNORECASE)
_DEFAULT_MEMORY = 16 * 2**30
_NAMESPACE = uuid.UUID("6f0b2f0e-53a1-5a0d-9c39-5f1f7ad5f0c1")


class SimulatedGpus:
    """`SimulatedGpus("4:A100-80GB", host_id)`: UUIDs depend on the host and the index alone, so they are stable."""

    simulated = True

    def __init__(self, spec: str, host_id: str) -> None:
        found = _SPEC.fullmatch(spec)
        if found is None:
            raise ValueError(f"simulated GPUs {spec!r} can't be read: give GPUS:MODEL, as in 4:A100-80GB")
        model = found[2]
        size = _SIZE.search(model)
        memory = int(size[1]) * 2**30 if size else _DEFAULT_MEMORY
        self._facts = tuple(
            GpuFacts(index, f"SIM-{uuid.uuid5(_NAMESPACE, f'{host_id}/{index}')}", model, memory)
            for index in range(int(found[1]))
        )

    def driver(self) -> DriverFacts:
        return DriverFacts()

    def facts(self) -> tuple[GpuFacts, ...]:
        return self._facts

    def readings(self) -> tuple[GpuReading, ...]:
        return tuple(GpuReading(uuid=gpu.uuid, simulated=True, healthy=True) for gpu in self._facts)

    def close(self) -> None:
        return
