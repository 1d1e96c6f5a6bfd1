"""The network of a gang on this host: a bridge of its own, joined by VXLAN to those of the other hosts.

Everything is named by the lease, so that it may be made twice and is found again after a restart. Hosts that share an
engine, as simulated ones do, share the bridge, and whoever leaves last takes it down.
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

import docker
from docker.types import IPAMConfig, IPAMPool

from node.daemon.engine import ALLOCATION_LABEL, GENERATION_LABEL, Engine, Json
from node.daemon.firewall import SYSTEM_PATH, Firewall
from node.daemon.networks import NoNetworkError, bridge_prefix
from scheduler.gang_network import GangNetwork

_BRIDGE = "com.docker.network.bridge.name"
_MTU = "com.docker.network.driver.mtu"
_VNI_LABEL = "remotegpu.vni"
_OVERHEAD = 50  # bytes that VXLAN over IPv4 puts around a frame
_PLAIN_MTU = 1500
_TIMEOUT_S = 15
_ALL_ZERO = "00:00:00:00:00:00"  # the entry for everything whose place is not known yet

Placing = tuple[str, int]  # allocation uid and generation


@dataclass(frozen=True, slots=True)
class GangEndpoint:
    """Where a container is put: the network's name in Docker, its address and its name there, and those of all."""

    network: str
    address: str
    name: str
    names: dict[str, str]


class GangNetworks:
    def __init__(self, engine: Engine, firewall: Firewall, *, port: int) -> None:
        self._engine, self._firewall, self._port = engine, firewall, port

    def join(self, gang: GangNetwork, rank: int, placing: Placing) -> GangEndpoint:
        """Make this host's part of the network. Idempotent.

        Raises:
            NoNetworkError: its subnet or its VXLAN is in use here; another placing has others.
            docker.errors.APIError
        """
        others = sorted(set(gang.hosts) - {gang.hosts[rank]})
        mtu = _underlay_mtu(others[0]) - _OVERHEAD if others else _PLAIN_MTU
        network = self._network(gang, rank, placing, mtu)
        bridge = network["Options"][_BRIDGE]
        self._firewall.open_gang(bridge)
        if others:
            self._link(bridge, gang, gang.hosts[rank], others, mtu)
        names = {node_name(other): gang.address(other) for other in range(len(gang.hosts))}
        return GangEndpoint(network["Name"], gang.address(rank), node_name(rank), names)

    def leave(self, placing: Placing) -> None:
        """Take this host's part down, once its containers are gone. Idempotent."""
        for network in self._engine.api.networks(names=[_name(placing)]):
            self._remove(network)

    def adopt(self, held: Collection[Placing]) -> None:
        """After a restart: keep what leases use, and take down the rest."""
        for network in self._engine.api.networks(filters={"label": [self._engine.filters["label"], _VNI_LABEL]}):
            labels = network["Labels"]
            if (labels[ALLOCATION_LABEL], int(labels[GENERATION_LABEL])) in held:
                self._firewall.open_gang(network["Options"][_BRIDGE])
            else:
                self._remove(network)

    def _network(self, gang: GangNetwork, rank: int, placing: Placing, mtu: int) -> Json:
        name = _name(placing)
        labels = {ALLOCATION_LABEL: placing[0], GENERATION_LABEL: str(placing[1]), _VNI_LABEL: str(gang.vni)}
        try:
            self._engine.api.create_network(
                name,
                driver="bridge",
                check_duplicate=True,
                labels={**labels, **self._engine.labels()},
                ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=gang.subnet, gateway=gang.gateway(rank))]),
                options={_BRIDGE: _bridge(self._engine.host_id, placing), _MTU: str(mtu)},
            )
        except docker.errors.APIError as error:
            # 409: it is there already, made by this host before or by another one of this engine.
            refusal = str(error)
            if error.status_code not in (403, 409) and "overlap" not in refusal.lower():
                raise
        else:
            refusal = ""
        for network in self._engine.api.networks(names=[name]):
            if network["Name"] == name:
                found: Json = network
                return found
        raise NoNetworkError(f"the gang's subnet {gang.subnet} can't be had here: {refusal[:300]}")

    def _link(self, bridge: str, gang: GangNetwork, own: str, others: list[str], mtu: int) -> None:
        device = _device(gang.vni)
        if not _is_port(device, bridge):
            _ip("link", "add", device, "type", "vxlan", "id", str(gang.vni), "dstport", str(self._port), "local", own)
        _ip("link", "set", device, "mtu", str(mtu), "master", bridge, "up")
        for other in others:
            # Appending twice is refused, replacing would keep one of them alone.
            entry = ("fdb", "append", _ALL_ZERO, "dev", device, "dst", other)
            _run(("bridge", *entry), allow="exists")

    def _remove(self, network: Json) -> None:
        try:
            self._engine.api.remove_network(network["Id"])
        except docker.errors.NotFound:
            pass
        except docker.errors.APIError as error:
            if error.status_code == 403:  # another host of this engine still has a container there
                return
            raise
        self._firewall.close_gang(network["Options"][_BRIDGE])
        _run(("ip", "link", "delete", _device(int(network["Labels"][_VNI_LABEL]))), allow="find device")


def node_name(rank: int) -> str:
    """By which the nodes know each other: `node-0` is the first."""
    return f"node-{rank}"


def _name(placing: Placing) -> str:
    return f"rgang-{placing[0]}-{placing[1]}"


def _bridge(host_id: str, placing: Placing) -> str:
    """At most 15 characters, and one of this host's bridges to the firewall."""
    return f"{bridge_prefix(host_id)}g{hashlib.sha256(repr(placing).encode()).hexdigest()[:4]}"


def _device(vni: int) -> str:
    return f"rx{vni:06x}"


def _is_port(device: str, bridge: str) -> bool:
    """Whether the device is there as a port of the bridge.

    Raises:
        NoNetworkError: it is there, for another gang.
    """
    found = json.loads(_run(("ip", "-json", "link", "show", device), allow="does not exist") or "[]")
    if found and found[0].get("master", bridge) != bridge:
        raise NoNetworkError(f"{device} is in use by another gang")
    return bool(found)


def _underlay_mtu(address: str) -> int:
    """Of the link by which that host is reached."""
    route = json.loads(_ip("-json", "route", "get", address))[0]
    return int(json.loads(_ip("-json", "link", "show", route["dev"]))[0]["mtu"])


def _ip(*arguments: str) -> str:
    return _run(("ip", *arguments))


def _run(command: tuple[str, ...], *, allow: str | None = None) -> str:
    """Raises: NoNetworkError, with what it said, unless that contains `allow`."""
    program = shutil.which(command[0], path=SYSTEM_PATH)
    if program is None:
        raise NoNetworkError(f"{command[0]} is missing: apt-get install iproute2")
    done = subprocess.run((program, *command[1:]), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode and not (allow and allow in done.stderr.lower()):
        raise NoNetworkError(f"{' '.join(command)}: {done.stderr.strip()[:300]}")
    return done.stdout
