"""Tenants' containers reach the internet, but neither other hosts of the platform nor the operator's networks.

Another network namespace stands for what is beyond this machine.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon_fixtures import new_directory, nothing_left_of
from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost
from tests.waiting import wait_for

PORT = 8265
ROUTER, PEER, STRANGER = "198.51.100.1", "198.51.100.2", "198.51.100.3"
PRIVATE, OPENED = "10.191.7.2", "10.191.9.2"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def beyond(tmp_path: Path) -> Iterator[None]:
    """A machine with these addresses, behind this one; PORT answers on all of them."""
    name = f"beyond{os.getpid()}"  # not rg..., as tenants' bridges are called
    ip("netns", "add", name)
    server = None
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", f"{ROUTER}/24", "dev", name)
        ip("link", "set", name, "up")
        for address in (PEER, STRANGER, PRIVATE, OPENED):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", ROUTER)
        for address in (PRIVATE, OPENED):
            ip("route", "add", f"{address}/32", "via", PEER)
        command = [sys.executable, "-m", "http.server", str(PORT), "--directory", str(tmp_path)]
        server = subprocess.Popen(
            ["nsenter", f"--net=/var/run/netns/{name}", *command],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        yield
    finally:
        if server is not None:
            server.terminate()
            server.wait(20)
        ip("netns", "delete", name)
        wait_for(lambda: not Path(f"/sys/class/net/{name}").exists(), timeout_s=20, what="no link left")


@pytest.fixture
def host(scratch: Path, certificates: Path, platform: FakePlatform) -> Iterator[DaemonHost]:
    host = DaemonHost(new_directory(scratch), certificates, platform, private_networks=("10.191.9.0/24",))
    host.start()
    yield host
    host.close()
    assert nothing_left_of(host)


def test_other_hosts_and_private_networks_are_out_of_reach(
    beyond: None, host: DaemonHost, platform: FakePlatform
) -> None:
    lease = host.lease()
    host.run(lease, "sleep", "600")
    for address in (PEER, STRANGER, OPENED):  # nobody has said yet that PEER is a host
        wait_for(lambda address=address: host.reaches(lease, address, PORT), timeout_s=20, what=f"a way to {address}")
    assert not host.reaches(lease, PRIVATE, PORT)

    platform.peers = {"version": "1", "addresses": [PEER, "127.0.0.1", "fd00::1", "a-name"]}
    wait_for(lambda: platform.beats[-1]["peers_version"] == "1", timeout_s=20, what="the host's word that it knows")
    assert not host.reaches(lease, PEER, PORT)
    assert host.reaches(lease, STRANGER, PORT) and host.reaches(lease, OPENED, PORT)
    assert not host.reaches(lease, PRIVATE, PORT)

    host.end()
    platform.away = True
    table = f"remotegpu_{host.config.host_id.replace('-', '')}"
    subprocess.run(["nft", "delete", "table", "inet", table], check=True)
    assert host.reaches(lease, PEER, PORT)
    host.start(healthy=False)  # cut off: it goes by what it was told before
    assert not host.reaches(lease, PEER, PORT)
    assert host.reaches(lease, STRANGER, PORT)
