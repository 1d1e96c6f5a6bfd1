"""What the platform tells Ray, without a Ray: bundles, the head's command line, host operations' time limits."""

import sys
from pathlib import Path

import pytest

from cluster.fabric import bundle
from cluster.head import RayHead, parse
from cluster.hostlink import timeout_for
from scheduler.host_protocol import DeviceShare
from scheduler.ports import HostShare

HEAD = RayHead(Path("/x/ray"), Path("/x/token"), "10.0.0.1", 6379, 8265, 23000)


def test_a_bundle_asks_for_exactly_its_devices() -> None:
    share = HostShare("h", (DeviceShare("a", 1000), DeviceShare("b", 250)), 1500, 7)
    assert bundle(share) == {"CPU": 1.5, "memory": 7.0, "gpu-a": 1.0, "gpu-b": 0.25}


def test_the_head_is_rebuilt_from_its_own_arguments() -> None:
    assert parse(HEAD.arguments()[3:]) == HEAD


def test_every_port_of_the_head_is_given_once_and_the_dashboard_is_local() -> None:
    command = HEAD.command()
    assert command[0] == sys.executable and "--dashboard-host=127.0.0.1" in command
    ports = [int(word.partition("=")[2]) for word in command if "-port=" in word and "client" not in word]
    assert len(ports) == len(set(ports)) == 10
    metric_ports = {int(value) for key, value in HEAD.environment().items() if key.endswith("_METRIC_PORT")}
    assert not metric_ports & set(ports) and all(23000 <= port < 23120 for port in metric_ports)


def test_the_head_is_authenticated_keeps_its_state_and_has_a_home_of_its_own() -> None:
    environment = HEAD.environment()
    assert environment["RAY_AUTH_MODE"] == "token" and environment["RAY_AUTH_TOKEN_PATH"] == "/x/token"
    assert environment["RAY_gcs_storage"] == "rocksdb" and environment["HOME"].startswith("/x/ray/")
    assert environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "0"


def test_preparing_forgets_the_last_heads_address(tmp_path: Path) -> None:
    head = RayHead(tmp_path / "ray", tmp_path / "token", "10.0.0.1", 6379, 8265, 23000)
    head.prepare()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")
    head.prepare()
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == ["gcs", "home"]


@pytest.mark.parametrize(
    ("body", "expected_s"),
    [
        ({}, 20.0),
        ({"grace_s": 30}, 45.0),
        ({"arguments": {"timeout": 12}}, 27.0),
        ({"grace_s": 10**9}, 60.0),
        ({"grace_s": "soon", "arguments": []}, 20.0),
    ],
)
def test_time_limits_follow_the_grace_and_are_bounded(body: dict[str, object], expected_s: float) -> None:
    assert timeout_for(body) == expected_s
