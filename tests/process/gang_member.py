"""A host's part in gangs, run on a machine of its own: `gang_member ENGINE HOST_ID PEER...`, with a command a line.

`join RANK ALLOCATION ADDRESS...` makes the network and a container that serves files in it, and answers the container's
address; `leave ALLOCATION` ends both; `adopt` does what a daemon does that comes back and holds no lease.
"""

import sys

from node.daemon.config import HostConfig
from node.daemon.engine import Engine
from node.daemon.firewall import Firewall
from node.daemon.gang_networks import GangEndpoint, GangNetworks
from scheduler.gang_network import gang_network
from tests.machines import ROUTER
from tests.process.daemon_process import IMAGE

RANGE = "10.208.0.0/12"
GENERATION = 1


class Member:
    def __init__(self, engine_url: str, host_id: str, peers: list[str]) -> None:
        config = HostConfig(host_id=host_id, name="host", internal_url=f"https://{ROUTER}:8001", docker_host=engine_url)
        self._engine, self._firewall = Engine(engine_url, host_id), Firewall(config, peers)
        self._firewall.apply()
        self._networks = GangNetworks(self._engine, self._firewall, port=config.overlay_port)

    def join(self, rank: str, allocation: str, *addresses: str) -> str:
        placing = (allocation, GENERATION)
        gang = gang_network(*placing, addresses, address_range=RANGE)
        endpoint = self._networks.join(gang, int(rank), placing)
        assert self._networks.join(gang, int(rank), placing) == endpoint
        self._start(endpoint, self._container(allocation))
        return endpoint.address

    def leave(self, allocation: str) -> str:
        self._engine.api.remove_container(self._container(allocation), force=True)
        for _ in range(2):
            self._networks.leave((allocation, GENERATION))
        return ""

    def adopt(self) -> str:
        self._networks.adopt(set())
        return ""

    def close(self) -> None:
        self._firewall.remove()
        self._engine.api.close()

    def _container(self, allocation: str) -> str:
        return f"{self._engine.host_id}-{allocation}"

    def _start(self, endpoint: GangEndpoint, name: str) -> None:
        api = self._engine.api
        endpoints = {endpoint.network: api.create_endpoint_config(ipv4_address=endpoint.address)}
        api.create_container(
            IMAGE,
            ["python3", "-m", "http.server", "9000", "--directory", "/usr/bin"],
            name=name,
            labels=self._engine.labels(),
            host_config=api.create_host_config(network_mode=endpoint.network),
            networking_config=api.create_networking_config(endpoints),
        )
        api.start(name)


def main(engine_url: str, host_id: str, *peers: str) -> None:
    member = Member(engine_url, host_id, list(peers))
    for line in sys.stdin:
        what, *arguments = line.split()
        sys.stdout.write(getattr(member, what)(*arguments) + "\n")
        sys.stdout.flush()
    member.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
