"""The port to a host's GPUs, and the choice of what stands behind it."""

from dataclasses import dataclass
from typing import Protocol

from scheduler.host_protocol import GpuFacts, GpuReading


@dataclass(frozen=True, slots=True)
class DriverFacts:
    driver_version: str | None = None
    cuda_version: str | None = None


class Gpus(Protocol):
    """A host's GPUs. What could not be read is None, never zero."""

    simulated: bool

    def driver(self) -> DriverFacts: ...

    def facts(self) -> tuple[GpuFacts, ...]: ...

    def readings(self) -> tuple[GpuReading, ...]: ...

    def close(self) -> None: ...


class NoGpus:
    """A host without GPUs: it runs what needs CPU alone."""

    simulated = False

    def driver(self) -> DriverFacts:
        return DriverFacts()

    def facts(self) -> tuple[GpuFacts, ...]:
        return ()

    def readings(self) -> tuple[GpuReading, ...]:
        return ()

    def close(self) -> None:
        return


def open_gpus(simulate: str | None, host_id: str) -> Gpus:
    """The simulation that `simulate` describes, else NVML, else none if its library does not load.

    Raises:
        ValueError: `simulate` can't be read.
    """
    # Imported here: pynvml costs memory where GPUs are simulated.
    if simulate:
        from node.gpus.simulated import SimulatedGpus

        return SimulatedGpus(simulate, host_id)
    from node.gpus.nvml import NvmlGpus, NvmlUnavailableError

    try:
        return NvmlGpus()
    except NvmlUnavailableError:
        return NoGpus()
