"""NvmlGpus through the true ctypes boundary: a small library, compiled here, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("nvml_stub.c")
PROGRAM = """
import json, os, pathlib
from dataclasses import asdict
from node.gpus.provider import open_gpus
gpus = open_gpus(None, "host")
before = gpus.readings()
pathlib.Path(os.environ["STUB_LOST"]).touch()
answer = {"kind": type(gpus).__name__, "driver": asdict(gpus.driver()), "facts": [asdict(g) for g in gpus.facts()],
          "before": [asdict(r) for r in before], "after": [asdict(r) for r in gpus.readings()]}
gpus.close()
print(json.dumps(answer))
"""


@pytest.fixture
def answer(tmp_path: Path) -> dict[str, Any]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "STUB_LOST": str(tmp_path / "lost")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_values_come_through(answer: dict[str, Any]) -> None:
    assert answer["kind"] == "NvmlGpus"
    assert answer["driver"] == {"driver_version": "999.1", "cuda_version": "13.2"}
    first = answer["facts"][0]
    assert (first["uuid"], first["model"], first["memory_bytes"]) == ("GPU-stub-0", "NVIDIA Stub-8GB", 8 * 2**30)
    assert first["pci_bus_id"] == "00000000:01:00.0"
    reading = answer["before"][0]
    assert reading["utilisation_percent"] == 0  # idle, which is not the same as unknown
    assert (reading["power_mw"], reading["temperature_c"], reading["sm_clock_mhz"]) == (250_000, 41, 1410)


def test_what_is_not_there_is_none(answer: dict[str, Any]) -> None:
    reading = answer["before"][1]
    assert reading["healthy"]
    for name in ("utilisation_percent", "power_mw", "memory_clock_mhz"):  # not supported by this card
        assert reading[name] is None
    for name in (
        "power_limit_mw",
        "ecc_corrected",
        "ecc_uncorrected",
        "process_count",
        "last_xid",
    ):  # not in the library
        assert reading[name] is None
    assert answer["facts"][0]["mig_enabled"] is None


def test_a_gpu_that_falls_off_the_bus_is_unhealthy_alone(answer: dict[str, Any]) -> None:
    first, second = answer["after"]
    assert first["healthy"] and first["temperature_c"] == 41
    assert not second["healthy"] and "lost" in second["error"].lower()
    assert second["temperature_c"] is None
