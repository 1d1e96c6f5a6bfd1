"""What tenants' containers may reach, as one nftables table per host.

Docker's own rules cover forwarding alone; what listens on this machine would be in reach at the bridge's address. Other
tables still apply: here things are only dropped, so that the order of tables does not matter.
"""

import ipaddress
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from node.daemon.config import HostConfig
from node.daemon.networks import bridge_prefix

_TIMEOUT_S = 15
_METADATA = "169.254.0.0/16"


class FirewallError(Exception):
    """nft is missing or refused; tenants' containers must not be started then."""


class Firewall:
    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self.table = f"remotegpu_{re.sub('[^0-9A-Za-z]', '', config.host_id)}"

    def apply(self) -> None:
        """Put the rules there, replacing earlier ones at once.

        Raises:
            FirewallError
        """
        _nft(self.rules())

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
        return f"""\
add table inet {self.table}
delete table inet {self.table}
table inet {self.table} {{
    chain input {{
        type filter hook input priority -10; policy accept;
        {ours} ct state established,related accept
{allowed}{resolvers}        {ours} drop
    }}
    chain forward {{
        type filter hook forward priority -10; policy accept;
        {ours} ct state established,related accept
        {ours} ip daddr {_METADATA} drop
        {ours} meta nfproto ipv6 drop
        {ours} oifname "rg*" drop
        {ours} oifname "docker*" drop
        {ours} oifname "br-*" drop
{resolvers}{protected}    }}
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


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _nft(script: str) -> None:
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin")
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
