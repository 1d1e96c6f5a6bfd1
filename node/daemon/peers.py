"""The addresses of the platform's other hosts, which are no tenant's business. Kept, so that a restart while this host
is cut off protects them as before.
"""

import json

from node.daemon.firewall import Firewall
from node.daemon.store import Store
from scheduler.host_protocol import PeerList

_NONE = PeerList(version="", addresses=())


def known_peers(store: Store) -> PeerList:
    """As the platform last told them; none with an empty version before."""
    row = store.one("select version, addresses from peers")
    return PeerList(str(row[0]), tuple(json.loads(row[1]))) if row else _NONE


class Peers:
    def __init__(self, store: Store, firewall: Firewall) -> None:
        self._store, self._firewall = store, firewall
        self.version = known_peers(store).version

    def learn(self, told: PeerList) -> None:
        """Keep tenants off these; known only once the rules are in force, so that a failure is told again.

        Raises:
            FirewallError
        """
        self._firewall.protect(told.addresses)
        with self._store.transaction():
            self._store.execute("delete from peers")
            self._store.execute("insert into peers values (?, ?)", told.version, json.dumps(told.addresses))
        self.version = told.version
