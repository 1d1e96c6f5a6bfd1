"""NvmlGpus against real hardware: is what it says plausible, consistent, live, and the same as nvidia-smi's?"""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from node.gpus.nvml import NvmlGpus, NvmlUnavailableError
from node.gpus.provider import open_gpus
from scheduler.host_protocol import GpuReading

pytestmark = pytest.mark.gpu

UUID = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BUS = re.compile(r"[0-9A-F]{8}:[0-9A-F]{2}:[0-9A-F]{2}\.[0-7]", re.IGNORECASE)
MIB = 2**20
ALLOCATED = 512 * MIB
# what a reading may be, where the card says it at all; of a card of today, with room for the next ones
PLAUSIBLE = {
    "utilisation_percent": (0, 100),
    "temperature_c": (1, 120),
    "power_mw": (1, 3_000_000),
    "power_limit_mw": (10_000, 3_000_000),
    "sm_clock_mhz": (1, 5_000),
    "memory_clock_mhz": (1, 20_000),
    "ecc_corrected": (0, 10**9),
    "ecc_uncorrected": (0, 10**6),
    "process_count": (0, 10_000),
}


@pytest.fixture
def gpus() -> Iterator[NvmlGpus]:
    try:
        gpus = NvmlGpus()
    except NvmlUnavailableError as error:
        pytest.skip(f"no NVIDIA GPU here: {error}")
    if not gpus.facts():
        gpus.close()
        pytest.skip("the NVIDIA driver sees no GPU")
    yield gpus
    gpus.close()


def test_nvml_is_the_default_where_it_loads(gpus: NvmlGpus) -> None:
    opened = open_gpus(None, "host")
    assert isinstance(opened, NvmlGpus)
    assert opened.facts() == gpus.facts()
    opened.close()


def test_facts(gpus: NvmlGpus) -> None:
    assert not gpus.simulated
    assert re.fullmatch(r"\d+(\.\d+)+", gpus.driver().driver_version or "")
    assert re.fullmatch(r"\d+\.\d+", gpus.driver().cuda_version or "")
    uuids = [gpu.uuid for gpu in gpus.facts()]
    assert len(set(uuids)) == len(uuids)
    assert [gpu.index for gpu in gpus.facts()] == list(range(len(uuids)))
    for gpu in gpus.facts():
        assert UUID.fullmatch(gpu.uuid)
        assert gpu.model not in ("", "unknown")
        assert gpu.memory_bytes > 2**30
        assert BUS.fullmatch(gpu.pci_bus_id or "")
        assert gpu.uuid not in gpu.nvlink_peer_uuids and set(gpu.nvlink_peer_uuids) <= set(uuids)
        assert gpu.mig_enabled in (None, False, True)


def test_readings_are_plausible_or_absent(gpus: NvmlGpus) -> None:
    readings = gpus.readings()
    assert [reading.uuid for reading in readings] == [gpu.uuid for gpu in gpus.facts()]
    for gpu, reading in zip(gpus.facts(), readings, strict=True):
        assert reading.healthy and not reading.simulated and reading.error is None
        assert reading.memory_used_bytes is not None
        assert 0 <= reading.memory_used_bytes <= gpu.memory_bytes
        for name, (least, most) in PLAUSIBLE.items():
            value = getattr(reading, name)
            assert value is None or (type(value) is int and least <= value <= most), (name, value)
        assert reading.last_xid is None  # nothing has gone wrong since this test began
        assert all(reason and reason.islower() for reason in reading.throttle_reasons or ())


def test_at_least_the_common_readings_are_there(gpus: NvmlGpus) -> None:
    """Every data centre card offers these; without them the reader is broken rather than the card poor."""
    reading = gpus.readings()[0]
    if gpus.facts()[0].mig_enabled:
        pytest.skip("a card that is split into MIG instances has no utilisation of its own")
    for name in ("temperature_c", "utilisation_percent", "sm_clock_mhz"):
        assert getattr(reading, name) is not None, name


def test_the_same_as_nvidia_smi(gpus: NvmlGpus) -> None:
    program = shutil.which("nvidia-smi")
    if program is None:
        pytest.skip("nvidia-smi is not installed")
    command = [program, "--query-gpu=uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    told = [tuple(field.strip() for field in line.split(",")) for line in lines]
    assert [(uuid, name) for uuid, name, _, _ in told] == [(gpu.uuid, gpu.model) for gpu in gpus.facts()]
    assert {driver for *_, driver in told} == {gpus.driver().driver_version}
    for gpu, (_, _, total_mib, _) in zip(gpus.facts(), told, strict=True):
        assert abs(gpu.memory_bytes - int(total_mib) * MIB) < 1024 * MIB  # some versions count reserved memory


def test_memory_in_use_follows_an_allocation(gpus: NvmlGpus) -> None:
    with CudaMemory(ALLOCATED) as uuid:
        during = reading_of(gpus, uuid)
    after = reading_of(gpus, uuid)
    assert during.memory_used_bytes is not None and after.memory_used_bytes is not None
    assert during.memory_used_bytes - after.memory_used_bytes > ALLOCATED // 2
    if during.process_count:  # a container with process ids of its own sees none
        assert during.process_count > (after.process_count or 0)


def reading_of(gpus: NvmlGpus, uuid: str) -> GpuReading:
    return next(reading for reading in gpus.readings() if reading.uuid == uuid)


class CudaMemory:
    """Memory on the first device through the driver's own library, held by this process; answers the device's UUID."""

    def __init__(self, size: int) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            pytest.skip("libcuda.so.1 does not load")
        self._size, self._device = size, ctypes.c_int()

    def __enter__(self) -> str:
        cuda, context, memory = self._cuda, ctypes.c_void_p(), ctypes.c_void_p()
        if cuda.cuInit(0):
            pytest.skip("CUDA does not start here")
        raw = (ctypes.c_ubyte * 16)()
        assert cuda.cuDeviceGet(ctypes.byref(self._device), 0) == 0
        assert cuda.cuDeviceGetUuid(ctypes.byref(raw), self._device) == 0
        assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), self._device) == 0
        assert cuda.cuCtxSetCurrent(context) == 0
        assert cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(self._size)) == 0
        text = bytes(raw).hex()
        return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def __exit__(self, *_: object) -> None:
        assert self._cuda.cuDevicePrimaryCtxReset_v2(self._device) == 0
        assert self._cuda.cuDevicePrimaryCtxRelease_v2(self._device) == 0
