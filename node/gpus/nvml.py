"""NVIDIA GPUs through NVML. Each value is read by itself: what a card or driver does not offer is None."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

from node.gpus.provider import DriverFacts
from node.gpus.xid import XidWatch
from scheduler.host_protocol import GpuFacts, GpuReading

log = logging.getLogger(__name__)

T = TypeVar("T")
Handle = Any  # a ctypes pointer that pynvml made

_MILLI = 1000
_GONE = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_UNKNOWN})
_THROTTLE = {
    0x1: "gpu_idle",
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
}


class NvmlUnavailableError(Exception):
    """The NVML library does not load, or its driver does not answer."""


@dataclass(frozen=True, slots=True)
class _Device:
    index: int
    uuid: str
    handle: Handle
    memory_bytes: int


class NvmlGpus:
    """The GPUs of this machine. A GPU that falls off the bus is unhealthy with its error; the others go on."""

    simulated = False

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NvmlUnavailableError(str(error)) from error
        self._devices = tuple(_devices())
        self._facts = tuple(self._device_facts(device) for device in self._devices)
        self._xids = XidWatch({device.uuid: device.handle for device in self._devices})

    def driver(self) -> DriverFacts:
        cuda = _optional(pynvml.nvmlSystemGetCudaDriverVersion_v2)
        return DriverFacts(
            driver_version=_optional(pynvml.nvmlSystemGetDriverVersion),
            cuda_version=None if cuda is None else f"{cuda // _MILLI}.{cuda % _MILLI // 10}",
        )

    def facts(self) -> tuple[GpuFacts, ...]:
        """As found at the start: the hardware of a running host does not change."""
        return self._facts

    def readings(self) -> tuple[GpuReading, ...]:
        return tuple(self._reading(device) for device in self._devices)

    def close(self) -> None:
        self._xids.close()
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            log.debug("NVML shutdown: %s", error)

    def _device_facts(self, device: _Device) -> GpuFacts:
        mig = _optional(pynvml.nvmlDeviceGetMigMode, device.handle)
        pci = _optional(pynvml.nvmlDeviceGetPciInfo_v3, device.handle)
        return GpuFacts(
            index=device.index,
            uuid=device.uuid,
            model=_optional(pynvml.nvmlDeviceGetName, device.handle) or "unknown",
            memory_bytes=device.memory_bytes,
            pci_bus_id=_text(pci.busId) if pci else None,
            nvlink_peer_uuids=self._peers(device),
            mig_enabled=None if mig is None else bool(mig[0]),
        )

    def _peers(self, device: _Device) -> tuple[str, ...]:
        """The GPUs at the other ends of its links; behind switches, all that have a link to one."""
        by_bus = {}
        for other in self._devices:
            pci = _optional(pynvml.nvmlDeviceGetPciInfo_v3, other.handle)
            if pci is not None:
                by_bus[_text(pci.busId)] = other.uuid
        found = set()
        for link in _links(device.handle):
            remote = _optional(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, device.handle, link)
            if remote is not None and _text(remote.busId) in by_bus:
                found.add(by_bus[_text(remote.busId)])
        if _is_switched(device.handle):
            found |= {other.uuid for other in self._devices if _is_switched(other.handle)}
        return tuple(sorted(found - {device.uuid}))

    def _reading(self, device: _Device) -> GpuReading:
        handle, xid = device.handle, self._xids.last(device.uuid)
        try:
            pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError as error:
            if error.value in _GONE:
                return GpuReading(device.uuid, simulated=False, healthy=False, last_xid=xid, error=str(error))
        utilisation = _optional(pynvml.nvmlDeviceGetUtilizationRates, handle)
        memory = _optional(pynvml.nvmlDeviceGetMemoryInfo, handle)
        processes = _processes(handle)
        return GpuReading(
            uuid=device.uuid,
            simulated=False,
            healthy=True,
            utilisation_percent=None if utilisation is None else int(utilisation.gpu),
            memory_used_bytes=None if memory is None else int(memory.used),
            temperature_c=_optional(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
            power_mw=_optional(pynvml.nvmlDeviceGetPowerUsage, handle),
            power_limit_mw=_optional(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle),
            sm_clock_mhz=_optional(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
            memory_clock_mhz=_optional(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
            throttle_reasons=_throttling(handle),
            ecc_corrected=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ecc_uncorrected=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            last_xid=xid,
            process_count=None if processes is None else len(processes),
        )


def _devices() -> Iterator[_Device]:
    for index in range(_optional(pynvml.nvmlDeviceGetCount) or 0):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # what has none that is known, nobody can choose
            yield _Device(index, pynvml.nvmlDeviceGetUUID(handle), handle, int(memory.total))
        except pynvml.NVMLError as error:
            log.error("GPU %d can't be read and is left out: %s", index, error)


def _links(handle: Handle) -> list[int]:
    """Its NVLinks that are up."""
    links = range(pynvml.NVML_NVLINK_MAX_LINKS)
    return [link for link in links if _optional(pynvml.nvmlDeviceGetNvLinkState, handle, link)]


def _is_switched(handle: Handle) -> bool:
    kinds = (_optional(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link) for link in _links(handle))
    return pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH in kinds


def _throttling(handle: Handle) -> tuple[str, ...] | None:
    mask = _optional(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    return None if mask is None else tuple(name for bit, name in _THROTTLE.items() if mask & bit)


def _ecc(handle: Handle, kind: int) -> int | None:
    return _optional(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, pynvml.NVML_VOLATILE_ECC)


def _processes(handle: Handle) -> list[object] | None:
    """Compute processes; drivers before 510 have the older function alone."""
    found = _optional(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    return _optional(pynvml.nvmlDeviceGetComputeRunningProcesses_v2, handle) if found is None else found


def _optional(function: Callable[..., T], *arguments: object) -> T | None:
    """The value, or None where this card, driver or library does not have it."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
