"""Fixtures of the daemon tests: a platform to talk to, and a host of its own. Loaded by `conftest.py` beside it."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from node.daemon.engine import HOST_LABEL
from tests.process.daemon_certificates import make_certificates
from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    make_certificates(tmp_path)
    return tmp_path


@pytest.fixture
def platform(certificates: Path) -> Iterator[FakePlatform]:
    platform = FakePlatform(certificates)
    platform.start()
    yield platform
    platform.stop()


@pytest.fixture
def allowed() -> Iterator[socket.socket]:
    """A listener of this machine that tenants may reach, on all its addresses."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        yield listener


@pytest.fixture
def host(
    scratch: Path, certificates: Path, platform: FakePlatform, allowed: socket.socket, request: pytest.FixtureRequest
) -> Iterator[DaemonHost]:
    ports = (allowed.getsockname()[1],)
    host = DaemonHost(new_directory(scratch), certificates, platform, tenant_ports=ports)
    host.start()
    yield host
    host.close()
    assert nothing_left_of(host)


def new_directory(scratch: Path) -> Path:
    return scratch / f"h{time.monotonic_ns() % 10**9}"


def nothing_left_of(host: DaemonHost) -> bool:
    client = docker.APIClient()
    label = {"label": f"{HOST_LABEL}={host.config.host_id}"}
    found = [*client.containers(all=True, filters=label), *client.networks(filters=label)]
    found += client.volumes(filters=label)["Volumes"] or []
    client.close()
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert found == []
    assert host.config.host_id.replace("-", "") not in tables
    return True
