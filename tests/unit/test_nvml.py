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
import json, os, pathlib, time
from dataclasses import asdict
from node.gpus.provider import open_gpus
gpus = open_gpus(None, "host")
deadline = time.monotonic() + 10
before = gpus.readings()
while os.environ["STUB_XID"] and before[1].last_xid is None and time.monotonic() < deadline:
    time.sleep(0.01)
    before = gpus.readings()
pathlib.Path(os.environ["STUB_LOST"]).touch()
answer = {"kind": type(gpus).__name__, "driver": asdict(gpus.driver()), "facts": [asdict(g) for g in gpus.facts()],
          "before": [asdict(r) for r in before], "after": [asdict(r) for r in gpus.readings()]}
gpus.close()
print(json.dumps(answer))
"""


def ask(directory: Path, *defined: str) -> dict[str, Any]:
    """What the provider says of the stub, compiled with these macros."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = directory / "libnvidia-ml.so.1"
    macros = [f"-D{name}" for name in defined]
    subprocess.run([compiler, "-shared", "-fPIC", *macros, "-o", library, SOURCE], check=True)
    stub = {
        "LD_LIBRARY_PATH": str(directory),
        "STUB_LOST": str(directory / "lost"),
        "STUB_XID": "yes" if "RICH" in defined else "",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env=os.environ | stub,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ask(tmp_path_factory.mktemp("poor"))


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ask(tmp_path_factory.mktemp("rich"), "RICH")


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
        "throttle_reasons",
    ):  # not in the library
        assert reading[name] is None
    assert answer["facts"][0]["mig_enabled"] is None


def test_a_card_whose_memory_is_unknown_is_left_out(tmp_path: Path) -> None:
    assert [gpu["uuid"] for gpu in ask(tmp_path, "WITHOUT_MEMORY")["facts"]] == ["GPU-stub-0"]


def test_a_gpu_that_falls_off_the_bus_is_unhealthy_alone(answer: dict[str, Any]) -> None:
    first, second = answer["after"]
    assert first["healthy"] and first["temperature_c"] == 41
    assert not second["healthy"] and "lost" in second["error"].lower()
    assert second["temperature_c"] is None


def test_what_only_some_cards_have_comes_through(rich: dict[str, Any]) -> None:
    first, second = rich["before"]
    assert first["power_limit_mw"] == 400_000
    assert first["throttle_reasons"] == ["sw_power_cap", "hw_thermal"]
    assert (first["ecc_corrected"], first["ecc_uncorrected"]) == (3, 0)
    assert (first["process_count"], second["process_count"]) == (2, 0)
    assert second["throttle_reasons"] == []


def test_links_and_mig_are_found(rich: dict[str, Any]) -> None:
    assert [gpu["nvlink_peer_uuids"] for gpu in rich["facts"]] == [["GPU-stub-1"], ["GPU-stub-0"]]
    assert [gpu["mig_enabled"] for gpu in rich["facts"]] == [True, True]


def test_gpus_on_a_switch_are_peers(tmp_path: Path) -> None:
    """The other end of a link is the switch then, as on boards of eight."""
    facts = ask(tmp_path, "RICH", "SWITCHED")["facts"]
    assert [gpu["nvlink_peer_uuids"] for gpu in facts] == [["GPU-stub-1"], ["GPU-stub-0"]]


def test_an_xid_is_told_of_its_gpu_even_when_that_is_gone(rich: dict[str, Any]) -> None:
    assert [reading["last_xid"] for reading in rich["before"]] == [None, 79]
    assert [reading["last_xid"] for reading in rich["after"]] == [None, 79]
    assert [reading["healthy"] for reading in rich["after"]] == [True, False]
