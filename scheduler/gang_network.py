"""Addresses in the network of a gang: one subnet that spans its hosts, the same arithmetic on both ends."""

import hashlib
import ipaddress
from dataclasses import dataclass

MAX_NODES = 64
_PREFIX = 24
_FIRST_GATEWAY = 129
_MAX_VNI = 2**24 - 1


@dataclass(frozen=True, slots=True)
class GangNetwork:
    """`hosts` are the hosts' addresses in the order of ranks; several are the same where hosts share an engine."""

    vni: int  # of the VXLAN between the hosts
    subnet: str  # IPv4, a /24
    hosts: tuple[str, ...]

    def address(self, rank: int) -> str:
        """Of the node's container."""
        return self._address(1 + rank)

    def gateway(self, rank: int) -> str:
        """Of the bridge on the node's host: each has its own, since all bridges are one segment."""
        return self._address(_FIRST_GATEWAY + rank)

    def _address(self, number: int) -> str:
        return str(ipaddress.IPv4Network(self.subnet)[number])


def gang_network(allocation_uid: str, generation: int, hosts: tuple[str, ...], *, address_range: str) -> GangNetwork:
    """The network of one placing of a gang.

    Subnet and VXLAN are drawn from what names the placing: no host has to be asked, and where two gangs on one host
    meet by chance, the next placing draws others.

    Raises:
        ValueError: more hosts than MAX_NODES, or a range without room for a subnet.
    """
    if len(hosts) > MAX_NODES:
        raise ValueError(f"a gang spans at most {MAX_NODES} hosts")
    whole = ipaddress.IPv4Network(address_range)
    slots = 2 ** max(_PREFIX - whole.prefixlen, 0)
    digest = hashlib.sha256(f"{allocation_uid}:{generation}".encode()).digest()
    slot, vni = int.from_bytes(digest[:4]) % slots, 1 + int.from_bytes(digest[4:8]) % _MAX_VNI
    base = int(whole.network_address) + slot * 2 ** (32 - _PREFIX)
    return GangNetwork(vni, str(ipaddress.IPv4Network((base, _PREFIX))), hosts)
