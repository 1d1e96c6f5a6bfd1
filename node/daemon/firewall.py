"""What tenants' containers may reach, as one nftables table per host.

Docker's own rules cover forwarding alone; what listens on this machine would be in reach at the bridge's address. Other
tables still apply: here things are only dropped, so that the order of tables does not matter.
"""

import ipaddress
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from node.daemon.config import HostConfig
from node.daemon.networks import bridge_prefix

SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"  # whatever this process was started with
_TIMEOUT_S = 15
_METADATA = "169.254.0.0/16"
# What is not the internet: an operator's own networks, and carriers' (RFC 1918, RFC 6598).
_PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")


class FirewallError(Exception):
    """nft is missing or refused; tenants' containers must not be started then."""


class Firewall:
    def __init__(self, config: HostConfig, peers: Sequence[str] = ()) -> None:
        self._config, self._peers = config, _literal(peers)
        self._gangs: set[str] = set()
        self._lock = threading.Lock()
        self.table = f"remotegpu_{re.sub('[^0-9A-Za-z]', '', config.host_id)}"

    def apply(self) -> None:
        """Put the rules there, replacing earlier ones at once.

        Raises:
            FirewallError
        """
        _nft(self.rules())

    def protect(self, peers: Sequence[str]) -> None:
        """Keep tenants off these addresses from now on: all rules are replaced in one step, without a gap.

        Raises:
            FirewallError: the rules of before are in force.
        """
        before, self._peers = self._peers, _literal(peers)
        try:
            self.apply()
        except FirewallError:
            self._peers = before
            raise

    def open_gang(self, bridge: str) -> None:
        """Let the containers of this bridge talk with each other, and with those that VXLAN brings to it.

        Raises:
            FirewallError
        """
        self._set_gangs(self._gangs | {bridge})

    def close_gang(self, bridge: str) -> None:
        self._set_gangs(self._gangs - {bridge})

    def _set_gangs(self, gangs: set[str]) -> None:
        with self._lock:
            if gangs != self._gangs:
                self._gangs = gangs
                self.apply()

    def remove(self) -> None:
        _nft(f"add table inet {self.table}\ndelete table inet {self.table}\n")

    def present(self) -> bool:
        try:
            _nft(f"list table inet {self.table}\n")
        except FirewallError:
            return False
        return True

    def rules(self) -> str:
        ours = f'iifname "{bridge_prefix(self._config.host_id)}*"'
        ports = ", ".join(str(port) for port in sorted(set(self._config.tenant_ports)))
        allowed = f"        {ours} tcp dport {{ {ports} }} accept\n" if ports else ""
        resolvers = "".join(
            f"        {ours} ip daddr {ip} meta l4proto {{ tcp, udp }} th dport 53 accept\n" for ip in _resolvers()
        )
        protected = "".join(
            (f"        {ours} ip daddr {ip} tcp dport {{ {ports} }} accept\n" if ports else "")
            + f"        {ours} ip daddr {ip} drop\n"
            for ip in _addresses([self._config.internal_url, f"//{self._config.ray_address or ''}"])
        )
        peers = f"        elements = {{ {', '.join(self._peers)} }}\n" if self._peers else ""
        gangs = "".join(f'        iifname "{bridge}" oifname "{bridge}" accept\n' for bridge in sorted(self._gangs))
        opened = "".join(f"        {ours} ip daddr {each} accept\n" for each in self._config.private_networks)
        return f"""\
add table inet {self.table}
delete table inet {self.table}
table inet {self.table} {{
    set peers {{
        type ipv4_addr
{peers}    }}
    chain input {{
        type filter hook input priority -10; policy accept;
        udp dport {self._config.overlay_port} ip saddr != @peers drop
        {ours} ct state established,related accept
{allowed}{resolvers}        {ours} drop
    }}
    chain forward {{
        type filter hook forward priority -10; policy accept;
        {ours} ct state established,related accept
{gangs}        {ours} ip daddr {_METADATA} drop
        {ours} meta nfproto ipv6 drop
        {ours} oifname "rg*" drop
        {ours} oifname "docker*" drop
        {ours} oifname "br-*" drop
{resolvers}{protected}        {ours} ip daddr @peers drop
{opened}        {ours} ip daddr {{ {", ".join(_PRIVATE)} }} drop
    }}
}}
"""


def _resolvers() -> list[str]:
    """The name servers that containers are given: Docker leaves out those on loopback."""
    found = re.findall(r"^nameserver\s+(\S+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)
    return [ip for ip in found if _is_ipv4(ip) and not ipaddress.ip_address(ip).is_loopback]


def _addresses(urls: Sequence[str]) -> list[str]:
    """The IPv4 addresses of the platform's listeners, which are no tenant's business."""
    found = set()
    for url in urls:
        host = urlsplit(url).hostname
        if not host:
            continue
        try:
            found |= {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET)}
        except OSError as error:
            raise FirewallError(f"{host} can't be resolved: {error}") from error
    return sorted(ip for ip in found if not ipaddress.ip_address(ip).is_loopback)


def _literal(peers: Sequence[str]) -> list[str]:
    """IPv4 alone: tenants have no other way out."""
    return sorted({ip for ip in peers if _is_ipv4(ip) and not ipaddress.ip_address(ip).is_loopback})


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _nft(script: str) -> None:
    program = shutil.which("nft", path=SYSTEM_PATH)
    if program is None:
        raise FirewallError("nft is missing: apt-get install nftables")
    try:
        done = subprocess.run(
            [program, "-f", "-"], input=script, text=True, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FirewallError("nft does not answer") from error
    if done.returncode:
        raise FirewallError(f"nft: {done.stderr.strip()[:500]}")
