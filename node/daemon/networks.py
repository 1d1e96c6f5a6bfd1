"""Bridge networks made ahead, one per lease, used again afterwards: making one would be part of every start."""

import hashlib
import ipaddress
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.types import IPAMConfig, IPAMPool

from node.daemon.engine import Engine

log = logging.getLogger(__name__)

_PREFIX = 28  # 13 addresses: a lease's containers are few
_TRIES = 200
_MAX_NETWORKS = 1024


class NoNetworkError(Exception):
    """No address range is free for another network."""


def bridge_prefix(host_id: str) -> str:
    """What the names of this host's bridges begin with; with a number of 4 digits they stay within 15 characters."""
    return f"rg{hashlib.sha256(host_id.encode()).hexdigest()[:8]}"


class Networks:
    def __init__(self, engine: Engine, *, address_range: str, spares: int) -> None:
        self._engine, self._spares = engine, spares
        self._range = ipaddress.IPv4Network(address_range)
        self._prefix = bridge_prefix(engine.host_id)
        self._lock = threading.Lock()  # of the two sets
        self._making = threading.Lock()
        self._names: set[str] = set()
        self._free: set[str] = set()

    def adopt(self, used: set[str]) -> None:
        """Find the networks of an earlier daemon; those that no lease uses are spare."""
        found = {entry["Name"] for entry in self._engine.api.networks(filters=self._engine.filters)}
        with self._lock:
            self._names, self._free = found, found - used

    def take(self) -> str:
        """A network that nobody else uses.

        Raises:
            NoNetworkError
        """
        with self._lock:
            if self._free:
                return self._free.pop()
        with self._making:
            return self._make()

    def give_back(self, name: str) -> None:
        with self._lock:
            if name in self._names:
                self._free.add(name)

    def free(self) -> set[str]:
        """Those that wait for a lease."""
        with self._lock:
            return set(self._free)

    def fill(self) -> None:
        """Make spares until there are enough. Called in the background, never by a start."""
        while True:
            with self._lock:
                if len(self._free) >= self._spares:
                    return
            with self._making:
                name = self._make()
            self.give_back(name)

    def _make(self) -> str:
        with self._lock:
            number = next(n for n in range(_MAX_NETWORKS) if f"{self._prefix}{n:04d}" not in self._names)
        name = f"{self._prefix}{number:04d}"
        for subnet in self._candidates(number):
            try:
                self._engine.api.create_network(
                    name,
                    driver="bridge",
                    check_duplicate=True,
                    labels=self._engine.labels(),
                    ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))]),
                    options={
                        "com.docker.network.bridge.name": name,
                        "com.docker.network.bridge.enable_icc": "false",
                    },
                )
            except docker.errors.APIError as error:
                if "overlap" in str(error).lower():
                    continue
                raise
            with self._lock:
                self._names.add(name)
            return name
        raise NoNetworkError(f"no free range in {self._range} after {_TRIES} tries")

    def _candidates(self, number: int) -> Iterator[ipaddress.IPv4Network]:
        """Ranges that look free, from a place of this host's own: hosts on one machine rarely meet."""
        slots = 2 ** (_PREFIX - self._range.prefixlen)
        start = int.from_bytes(hashlib.sha256(self._engine.host_id.encode()).digest()[:4]) + number
        routed = _routes()
        for step in range(_TRIES):
            base = int(self._range.network_address) + ((start + step * 61) % slots) * 2 ** (32 - _PREFIX)
            subnet = ipaddress.IPv4Network((base, _PREFIX))
            if not any(subnet.overlaps(route) for route in routed):
                yield subnet


def _routes() -> list[ipaddress.IPv4Network]:
    """What this machine routes somewhere already, the default route aside."""
    routes = []
    with Path("/proc/net/route").open() as table:
        for line in list(table)[1:]:
            _, destination, _, _, _, _, _, mask, *_ = line.split()
            address, bits = (int.from_bytes(bytes.fromhex(text), "little") for text in (destination, mask))
            if bits:
                routes.append(ipaddress.IPv4Network((address, bits.bit_count())))
    return routes
