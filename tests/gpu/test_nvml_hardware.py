"""NvmlGpus against real hardware."""

from collections.abc import Iterator

import pytest

from node.gpus.nvml import NvmlGpus, NvmlUnavailableError

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpus() -> Iterator[NvmlGpus]:
    try:
        gpus = NvmlGpus()
    except NvmlUnavailableError as error:
        pytest.skip(f"no NVIDIA GPU here: {error}")
    yield gpus
    gpus.close()


def test_facts(gpus: NvmlGpus) -> None:
    assert not gpus.simulated
    assert gpus.driver().driver_version and gpus.driver().cuda_version
    assert gpus.facts()
    for gpu in gpus.facts():
        assert gpu.uuid.startswith("GPU-")
        assert gpu.model != "unknown"
        assert gpu.memory_bytes > 2**30
        assert gpu.pci_bus_id


def test_readings(gpus: NvmlGpus) -> None:
    readings = gpus.readings()
    assert [reading.uuid for reading in readings] == [gpu.uuid for gpu in gpus.facts()]
    for reading in readings:
        assert reading.healthy and not reading.simulated and reading.error is None
        assert reading.memory_used_bytes is not None
        assert reading.temperature_c is None or 0 < reading.temperature_c < 120
        assert reading.power_mw is None or reading.power_mw > 0
