"""The rules of a host's firewall, as text; tests/process/test_daemon_firewall.py sends packets through them."""

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from node.daemon.config import HostConfig
from node.daemon.firewall import Firewall


def forward(firewall: Firewall) -> list[str]:
    chain = firewall.rules().partition("chain forward {")[2].partition("}\n}")[0]
    return [re.sub(r'iifname "rg\w+\*" ', "", line.strip()) for line in chain.splitlines()[2:] if line.strip()]


def config(**settings: object) -> HostConfig:
    return TypeAdapter(HostConfig).validate_python(
        {"host_id": "h-1", "name": "h", "internal_url": "https://192.0.2.7:8001", "tenant_ports": (8000,), **settings}
    )


def test_what_is_opened_comes_after_what_is_protected() -> None:
    rules = forward(Firewall(config(private_networks=("10.1.0.0/16",)), ["192.0.2.8"]))
    platform = rules.index("ip daddr 192.0.2.7 drop")
    assert rules[platform - 1] == "ip daddr 192.0.2.7 tcp dport { 8000 } accept"
    assert rules[platform + 1 :] == [
        "ip daddr @peers drop",
        "ip daddr 10.1.0.0/16 accept",
        "ip daddr { 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16 } drop",
    ]


def test_peers_are_ipv4_addresses_of_other_machines_once_each() -> None:
    firewall = Firewall(
        config(), ["192.0.2.9", "127.0.0.1", "fd00::1", "192.0.2.8", "x }; flush ruleset; {", "192.0.2.9"]
    )
    assert "elements = { 192.0.2.8, 192.0.2.9 }\n" in firewall.rules()
    assert "elements" not in Firewall(config()).rules()


@pytest.mark.parametrize("network", ["10.0.0.1/8", "fd00::/8", "intranet", "10.0.0.0/8; drop"])
def test_a_network_that_is_none_is_refused(network: str) -> None:
    with pytest.raises(ValidationError):
        config(private_networks=(network,))
