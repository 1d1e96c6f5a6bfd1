"""Limits that the daemon keeps by itself on a real engine: disk with its home volume, time, and the platform's word."""

import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.daemon.disk import GRACE_BYTES
from tests.process.daemon_fixtures import new_directory, nothing_left_of
from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost, wait_for

MIB = 2**20
STUB = Path(__file__).parent.parent / "unit" / "nvml_stub.c"


def writing(mib: int, name: str) -> tuple[str, ...]:
    code = f"open('/home/jovyan/{name}', 'wb').write(bytes({mib} * 2**20)); import signal; signal.pause()"
    return "python3", "-c", code


def endings(platform: FakePlatform, lease: Any) -> list[str]:
    found = {
        ending["detail"]
        for beat in list(platform.beats)
        for ending in beat["endings"]
        if ending["allocation_uid"] == lease["allocation_uid"] and ending["generation"] == lease["generation"]
    }
    return sorted(found)


def overrun(host: DaemonHost, lease: Any) -> int | None:
    with closing(sqlite3.connect(host.directory.database, timeout=10)) as database:
        row = database.execute("select bytes from overruns where volume = ?", (lease["home_volume"],)).fetchone()
    return row[0] if row else None


def test_a_home_volume_over_the_limit_ends_the_lease_and_can_be_cleaned_up(
    host: DaemonHost, platform: FakePlatform
) -> None:
    lease = {**host.lease(volume=True), "disk_bytes": 64 * MIB}
    host.run(lease, *writing(80, "data"))
    wait_for(lambda: host.inspect(lease) is None, timeout_s=60)
    wait_for(lambda: endings(platform, lease), timeout_s=10)
    (detail,) = endings(platform, lease)
    assert "used 0.08 GiB of disk and may use 0.06 GiB" in detail
    assert "Start it again and delete files" in detail
    wait_for(lambda: not platform.beats[-1]["endings"] and not platform.beats[-1]["leases"])  # heard, and forgotten

    again = {**host.lease(volume=True), "disk_bytes": 64 * MIB, "home_volume": lease["home_volume"]}
    host.run(again, *writing(0, "more"))
    wait_for(lambda: overrun(host, again), timeout_s=60)
    assert abs((overrun(host, again) or 0) - 80 * MIB) < MIB
    assert host.inspect(again)["State"]["Running"] and endings(platform, again) == []
    grow = ["python3", "-c", f"open('/home/jovyan/more', 'wb').write(bytes({GRACE_BYTES} + 2**20))"]
    made = host.engine.api.exec_create(again["container_name"], grow)["Id"]
    host.engine.api.exec_start(made)
    wait_for(lambda: endings(platform, again), timeout_s=60)
    wait_for(lambda: host.inspect(again) is None, timeout_s=20)


def test_an_engine_without_quotas_says_watcher(host: DaemonHost, platform: FakePlatform) -> None:
    wait_for(lambda: platform.facts)
    assert platform.facts[0]["disk_limit"] == "watcher"


def test_time_runs_out_while_no_daemon_runs_and_the_platform_is_away(host: DaemonHost, platform: FakePlatform) -> None:
    lease = host.lease(run_s=6)
    host.run(lease, "sleep", "300")
    host.end()
    platform.away = True
    wait_for(lambda: time.time() * 1000 > lease["run_until_ms"])
    assert host.inspect(lease)["State"]["Running"]  # nobody was there to end it
    host.start(healthy=False)
    wait_for(lambda: host.inspect(lease) is None)
    assert max(window["to_ms"] for window in host.windows()) == lease["run_until_ms"]


def test_a_host_that_returns_is_told_to_end_what_goes_on_elsewhere(host: DaemonHost, platform: FakePlatform) -> None:
    lease, kept = host.lease(run_s=300), host.lease(run_s=300)
    host.run(lease, "sleep", "300")
    host.run(kept, "sleep", "300")
    platform.away = True
    wait_for(lambda: not host.healthy())
    assert host.inspect(lease)["State"]["Running"]
    platform.ended.add(lease["allocation_uid"])
    platform.away = False
    wait_for(lambda: host.inspect(lease) is None)
    assert host.call("grant_lease", **lease)[1]["code"] == "lease_ended"
    assert host.inspect(kept)["State"]["Running"]


@pytest.fixture
def nvml_host(scratch: Path, certificates: Path, platform: FakePlatform, tmp_path: Path) -> Iterator[DaemonHost]:
    """A host with the two GPUs of the compiled NVML stub."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "lib").mkdir()
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "lib/libnvidia-ml.so.1", STUB], check=True)
    host = DaemonHost(new_directory(scratch), certificates, platform, simulate=None)
    host.variables = {"LD_LIBRARY_PATH": str(tmp_path / "lib"), "STUB_LOST": str(tmp_path / "lost")}
    host.start()
    yield host
    host.close()
    assert nothing_left_of(host)


def test_the_device_request_that_reaches_docker(nvml_host: DaemonHost, platform: FakePlatform) -> None:
    host = nvml_host
    uuids = [gpu["uuid"] for gpu in wait_for(lambda: platform.facts)[0]["gpus"]]
    assert uuids == ["GPU-stub-0", "GPU-stub-1"]
    lease = {**host.lease(volume=True), "devices": [{"uuid": uuids[1], "milli": 1000}]}
    assert host.call("grant_lease", **lease) == (200, {})
    status, answer = host.container(lease, "create_container", command=["true"], environment={})
    assert status == 200, answer
    found = host.inspect(lease)
    assert found["HostConfig"]["DeviceRequests"] == [
        {
            "Driver": "nvidia",
            "Count": 0,
            "DeviceIDs": ["GPU-stub-1"],
            "Capabilities": [["gpu", "compute", "utility"]],
            "Options": {},
        }
    ]
    assert "NVIDIA_VISIBLE_DEVICES=GPU-stub-1" in found["Config"]["Env"]
    assert found["HostConfig"]["Devices"] in (None, [])
    assert host.end_lease(lease)[0] == 200


def test_metrics_are_served_to_operators_and_say_what_is_read(nvml_host: DaemonHost) -> None:
    samples = scrape(nvml_host)
    first = {"host": "test", "uuid": "GPU-stub-0", "model": "NVIDIA Stub-8GB", "simulated": "false"}
    second = first | {"uuid": "GPU-stub-1"}
    assert samples["remotegpu_gpu_power_milliwatts", key(first)] == 250_000
    assert samples["remotegpu_gpu_utilisation_percent", key(first)] == 0
    assert ("remotegpu_gpu_power_milliwatts", key(second)) not in samples  # this card does not say
    assert samples["remotegpu_gpu_memory_used_bytes", key(second)] == 2 * 2**30
    assert samples["remotegpu_gpu_healthy", key(second)] == 1
    assert samples["remotegpu_host_docker_up", key({"host": "test"})] == 1
    assert samples["remotegpu_host_certificate_expiry_seconds", key({"host": "test"})] > time.time()
    Path(nvml_host.variables["STUB_LOST"]).touch()
    wait_for(lambda: scrape(nvml_host)["remotegpu_gpu_healthy", key(second)] == 0)  # at the next look
    assert ("remotegpu_gpu_memory_used_bytes", key(second)) not in scrape(nvml_host)


def test_simulated_gpus_are_marked_in_the_metrics_and_have_no_invented_values(host: DaemonHost) -> None:
    samples = scrape(host)
    gpus = {name: labels for name, labels in samples if name.startswith("remotegpu_gpu_")}
    assert set(gpus) == {"remotegpu_gpu_healthy", "remotegpu_gpu_memory_total_bytes"}
    assert all(dict(labels)["simulated"] == "true" for labels in gpus.values())


def test_tenants_do_not_reach_the_metrics(
    scratch: Path, certificates: Path, platform: FakePlatform, allowed: socket.socket
) -> None:
    address = next(each.address for each in psutil.net_if_addrs()["docker0"] if each.family == socket.AF_INET)
    port = allowed.getsockname()[1]
    host = DaemonHost(new_directory(scratch), certificates, platform, address=address, tenant_ports=(port,))
    try:
        host.start()
        assert scrape(host)
        lease = host.lease()
        host.run(lease, "sleep", "300")
        assert host.reaches(lease, address, port)  # the same address, at a port that is for them
        metrics = urlsplit(host.call("health")[1]["metrics"])
        assert metrics.hostname == address and metrics.port is not None
        assert not host.reaches(lease, address, metrics.port)
    finally:
        host.close()


def test_a_port_that_tenants_may_reach_is_refused(scratch: Path, certificates: Path, platform: FakePlatform) -> None:
    host = DaemonHost(new_directory(scratch), certificates, platform, metrics_port=8000, tenant_ports=(8000,))
    try:
        host.start(healthy=False)
        wait_for(lambda: any("tenants may reach" in problem for problem in host.health()["problems"]))
        assert host.health()["metrics"] is None
    finally:
        host.close()


Labels = frozenset[tuple[str, str]]


def key(labels: dict[str, str]) -> Labels:
    return frozenset(labels.items())


def scrape(host: DaemonHost) -> dict[tuple[str, Labels], float]:
    url = wait_for(lambda: host.call("health")[1]["metrics"])
    text = httpx.get(url, trust_env=False).raise_for_status().text
    families = text_string_to_metric_families(text)
    return {(sample.name, key(sample.labels)): sample.value for family in families for sample in family.samples}
