"""Fair sharing: who has used the least of what dominates their use, lately, comes first.

Use is counted in thousandths of GPUs, milli-cores and bytes, each times seconds, and decays by half in every half-life
(as Slurm's multifactor priority does). The dominant share is the largest of the three as parts of the whole cluster
(Ghodsi et al., "Dominant Resource Fairness", NSDI 2011). To the mean of what was used, weighted by that decay, is added
what is held now, so that a customer with no past does not take everything at once.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from scheduler.demand import Demand
from scheduler.views import Usage

Vector = tuple[float, float, float]  # GPU thousandths, milli-cores, bytes; or those times seconds

_NONE: Vector = (0.0, 0.0, 0.0)


def size(demand: Demand) -> Vector:
    shape = demand.shape
    return float(demand.gpu_milli), float(shape.cpu_milli * demand.nodes), float(shape.memory_bytes * demand.nodes)


@dataclass(slots=True)
class _Account:
    at: datetime
    used: Vector = _NONE
    held: Vector = _NONE

    def used_by(self, now: datetime, half_life_s: float) -> Vector:
        elapsed = (now - self.at).total_seconds()
        if elapsed <= 0:
            return self.used
        kept = 0.5 ** (elapsed / half_life_s)
        gained = half_life_s / math.log(2) * (1 - kept)
        return _combine(self.used, kept, self.held, gained)

    def advance(self, now: datetime, half_life_s: float) -> None:
        self.used, self.at = self.used_by(now, half_life_s), max(self.at, now)


@dataclass(slots=True)
class FairShare:
    """Of customers, and of each one's workspaces. `total` is what the cluster has."""

    half_life_s: float
    total: Vector = (1.0, 1.0, 1.0)
    _customers: dict[int, _Account] = field(default_factory=dict)
    _workspaces: dict[tuple[int, int], _Account] = field(default_factory=dict)

    def load(self, usages: Iterable[Usage]) -> None:
        """What was used before this engine began to count, in place of all that it knew."""
        self._customers.clear()
        self._workspaces.clear()
        for usage in sorted(usages, key=lambda usage: (usage.at, usage.customer_id, usage.workspace_id)):
            used = (usage.gpu_milli_s, usage.cpu_milli_s, usage.memory_byte_s)
            for account in self._accounts(usage.customer_id, usage.workspace_id, usage.at):
                account.advance(usage.at, self.half_life_s)
                account.used = _combine(account.used, 1.0, used, 1.0)

    def begin(self, customer_id: int, workspace_id: int, held: Vector, now: datetime) -> None:
        self._change(customer_id, workspace_id, held, 1.0, now)

    def end(self, customer_id: int, workspace_id: int, held: Vector, now: datetime) -> None:
        self._change(customer_id, workspace_id, held, -1.0, now)

    def customer(self, customer_id: int, weight: float, now: datetime) -> float:
        """For who holds everything of one kind, at a weight of one, it is 1.0 at first and nears 2.0."""
        return self._share(self._customers.get(customer_id), now) / weight

    def workspace(self, customer_id: int, workspace_id: int, now: datetime) -> float:
        return self._share(self._workspaces.get((customer_id, workspace_id)), now)

    def _change(self, customer_id: int, workspace_id: int, held: Vector, sign: float, now: datetime) -> None:
        for account in self._accounts(customer_id, workspace_id, now):
            account.advance(now, self.half_life_s)
            account.held = _combine(account.held, 1.0, held, sign)

    def _accounts(self, customer_id: int, workspace_id: int, now: datetime) -> tuple[_Account, _Account]:
        if customer_id not in self._customers:
            self._customers[customer_id] = _Account(now)
        if (customer_id, workspace_id) not in self._workspaces:
            self._workspaces[customer_id, workspace_id] = _Account(now)
        return self._customers[customer_id], self._workspaces[customer_id, workspace_id]

    def _share(self, account: _Account | None, now: datetime) -> float:
        """Asking changes nothing, so that it makes no difference how often one asks."""
        if account is None:
            return 0.0
        span = self.half_life_s / math.log(2)
        past = account.used_by(now, self.half_life_s)
        return max(
            (used / span + held) / total for used, held, total in zip(past, account.held, self.total, strict=True)
        )


def _combine(a: Vector, by: float, b: Vector, times: float) -> Vector:
    return a[0] * by + b[0] * times, a[1] * by + b[1] * times, a[2] * by + b[2] * times
