"""Who has what on which host, known or not, and a way back: what was claimed in a trial is undone at its end."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from scheduler.cluster.pools import Pools, Taken
from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU
from scheduler.views import Part


@dataclass(frozen=True, slots=True)
class Key:
    """An allocation's id, or with `aside` whatever name the decider has for what it keeps for somebody."""

    name: Hashable
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """`cpu_milli` and `memory_bytes` are taken on the host of each part."""

    customer_id: int
    cpu_milli: int
    memory_bytes: int
    apart: str | None
    parts: tuple[Part, ...]

    @staticmethod
    def of(demand: Demand, customer_id: int, parts: Sequence[Part]) -> "Claim":
        """
        Raises:
            ValueError: two parts are on one host.
        """
        if len({part.host_id for part in parts}) < len(parts):
            raise ValueError(f"two parts on one host: {parts}")
        return Claim(customer_id, demand.shape.cpu_milli, demand.shape.memory_bytes, demand.apart, tuple(parts))


@dataclass(frozen=True, slots=True)
class _Step:
    """What to go back to: the claim of a key, and the states of the hosts concerned."""

    key: Key
    claim: Claim | None
    states: Mapping[int, int]


class Claims:
    """What the store says is held is believed, even if it is more than there is.

    The rows of the pools follow when `flush` is called: between two looks, most of what is claimed and given back in
    trials comes to nothing. Each change gives its hosts a new state, and going back gives them the old one, so that
    what is remembered of a state is good again.
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._claims: dict[Key, Claim] = {}
        self._on: dict[int, dict[Key, Part]] = {}
        self._taken: dict[int, Taken] = {}  # of hosts looked at, as long as that can be followed
        self._apart: dict[tuple[int, str], Counter[int]] = {}
        self._shared: Counter[int] = Counter()  # parts of devices, by customer
        self._states = 0
        self._state: dict[int, int] = {}  # of known hosts
        self._unwritten: dict[int, None] = {}
        self._touched: dict[int, set[int]] = {}  # of hosts whose rows are right but for these devices
        self._trials = 0
        self._steps: list[_Step] = []

    def get(self, key: Key) -> Claim | None:
        return self._claims.get(key)

    def allocations_on(self, host_id: int) -> tuple[int, ...]:
        names = [key.name for key in self._on.get(host_id, ()) if not key.aside]
        return tuple(sorted(name for name in names if isinstance(name, int)))

    def shares(self, customer_id: int) -> bool:
        """Whether the customer has a part of any device."""
        return customer_id in self._shared

    def apart(self, customer_id: int, name: str) -> list[int]:
        """Hosts with a claim of this customer under this name."""
        return list(self._apart.get((customer_id, name), ()))

    def taken(self, host_id: int) -> Taken:
        taken = self._taken.get(host_id)
        if taken is None:
            taken = self._taken[host_id] = self._counted(host_id)
        return taken

    def _counted(self, host_id: int) -> Taken:
        taken = Taken()
        for key, part in self._on.get(host_id, {}).items():
            claim = self._claims[key]
            taken.cpu_milli += claim.cpu_milli
            taken.memory_bytes += claim.memory_bytes
            for gpu_id, milli in part.devices:
                taken.add(gpu_id, milli, claim.customer_id)
        return taken

    def set(self, key: Key, claim: Claim | None) -> None:
        before = self._claims.get(key)
        if claim == before:
            return
        hosts = [host_id for host_id in self._replace(key, before, claim) if host_id in self._state]
        if self._trials:
            self._steps.append(_Step(key, before, {host_id: self._state[host_id] for host_id in hosts}))
        for host_id in hosts:
            self._renew(host_id)

    def changed(self, host_id: int) -> None:
        """Something about this host is new, so that what is free on it may be."""
        self._touched.pop(host_id, None)
        self._renew(host_id)

    def _renew(self, host_id: int) -> None:
        self._states += 1
        self._state[host_id] = self._states
        self._unwritten[host_id] = None

    def forget_host(self, host_id: int) -> None:
        """It has gone. What is claimed on it stays: it may come back while that lasts."""
        self._state.pop(host_id, None)
        self._unwritten.pop(host_id, None)
        self._touched.pop(host_id, None)

    def flush(self) -> None:
        """Write what is free to the rows of the hosts that have changed."""
        if self._unwritten:
            for host_id in self._unwritten:
                self._write(host_id, self._state[host_id])
            self._unwritten.clear()

    def _write(self, host_id: int, state: int) -> None:
        if self._pools.state(host_id) != state:
            self._pools.write(host_id, self.taken(host_id), state, only=self._touched.get(host_id))
        self._touched[host_id] = set()

    @contextmanager
    def trial(self) -> Iterator[None]:
        mark = len(self._steps)
        self._trials += 1
        try:
            yield
        finally:
            while len(self._steps) > mark:
                self._back(self._steps.pop())
            self._trials -= 1

    @property
    def in_trial(self) -> bool:
        return self._trials > 0

    def _back(self, step: _Step) -> None:
        self._replace(step.key, self._claims.get(step.key), step.claim)
        for host_id, state in step.states.items():
            self._state[host_id] = state
            self._unwritten[host_id] = None

    def _replace(self, key: Key, before: Claim | None, after: Claim | None) -> list[int]:
        """Returns the hosts concerned."""
        hosts: dict[int, None] = {}
        if before is not None:
            del self._claims[key]
            self._count(before, -1)
            for part in before.parts:
                hosts[part.host_id] = None
                self._follow(part, before, -1)
                del self._on[part.host_id][key]
                if not self._on[part.host_id]:
                    del self._on[part.host_id]
        if after is not None:
            self._claims[key] = after
            self._count(after, 1)
            for part in after.parts:
                hosts[part.host_id] = None
                self._follow(part, after, 1)
                self._on.setdefault(part.host_id, {})[key] = part
        return list(hosts)

    def _follow(self, part: Part, claim: Claim, sign: int) -> None:
        touched = self._touched.get(part.host_id)
        if touched is not None:
            touched.update(gpu_id for gpu_id, _ in part.devices)
        taken = self._taken.get(part.host_id)
        if taken is None:
            return
        taken.cpu_milli += sign * claim.cpu_milli
        taken.memory_bytes += sign * claim.memory_bytes
        for gpu_id, milli in part.devices:
            taken.add(gpu_id, sign * milli, claim.customer_id)

    def _count(self, claim: Claim, change: int) -> None:
        shared = sum(milli < MILLI_PER_GPU for part in claim.parts for _, milli in part.devices)
        _add(self._shared, claim.customer_id, change * shared)
        if claim.apart is not None:
            key = claim.customer_id, claim.apart
            hosts = self._apart.setdefault(key, Counter())
            for part in claim.parts:
                _add(hosts, part.host_id, change)
            if not hosts:
                del self._apart[key]


def _add(counter: Counter[int], key: int, change: int) -> None:
    """Zeros are not kept."""
    if change:
        counter[key] += change
        if not counter[key]:
            del counter[key]
