"""Addresses of a gang's network."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.gang_network import MAX_NODES, gang_network

RANGE = "10.208.0.0/12"
HOSTS = tuple(f"192.0.2.{number}" for number in range(1, MAX_NODES + 1))


@given(uid=st.uuids(), generation=st.integers(1, 10_000))
def test_every_node_and_bridge_has_an_address_of_its_own(uid: object, generation: int) -> None:
    gang = gang_network(str(uid), generation, HOSTS, address_range=RANGE)
    subnet = ipaddress.IPv4Network(gang.subnet)
    assert subnet.subnet_of(ipaddress.IPv4Network(RANGE))
    assert 1 <= gang.vni < 2**24
    found = [ipaddress.IPv4Address(of(rank)) for rank in range(MAX_NODES) for of in (gang.address, gang.gateway)]
    assert len({*found, subnet.network_address, subnet.broadcast_address}) == 2 * MAX_NODES + 2
    assert all(address in subnet for address in found)


def test_both_ends_come_to_the_same_and_another_placing_to_another() -> None:
    first = gang_network("a", 1, HOSTS[:2], address_range=RANGE)
    assert first == gang_network("a", 1, HOSTS[:2], address_range=RANGE)
    assert first.vni != gang_network("a", 2, HOSTS[:2], address_range=RANGE).vni


def test_too_many_hosts_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 64"):
        gang_network("a", 1, (*HOSTS, "192.0.2.200"), address_range=RANGE)
