"""Capacity groups: guaranteed shares, and what is lent and borrowed inside a cohort.

What no group is guaranteed belongs to the open group, of all requests that name none. Preemptible ones may go beyond
it, since they give way to the groups' own.

The model is Kueue's: a group has a nominal quota; what it does not use, up to its lending limit, the other groups of
its cohort may borrow, each up to its borrowing limit. Amounts are thousandths of GPUs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from scheduler.views import CapacityGroup

OPEN = ""
"""The name of the open group."""


@dataclass(slots=True)
class _Cohort:
    lendable: int = 0
    taken: int = 0  # of what is lendable, by its owners and by borrowers
    freed: int = 0  # rises whenever something was given back, or the groups changed


@dataclass(slots=True)
class _Account:
    group: CapacityGroup
    cohort: _Cohort
    used: int = 0

    @property
    def own(self) -> int:
        """What is never lent."""
        lending = self.group.nominal if self.group.lending_limit is None else self.group.lending_limit
        return self.group.nominal - min(lending, self.group.nominal) if self.group.cohort else self.group.nominal

    @property
    def shared_use(self) -> int:
        return max(0, self.used - self.own)


@dataclass(slots=True)
class Capacity:
    """What each group uses. While there are no groups nothing is limited."""

    _accounts: dict[str, _Account] = field(default_factory=dict)
    _cohorts: dict[str, _Cohort] = field(default_factory=dict)
    _members: dict[str, list[str]] = field(default_factory=dict)

    def define(self, groups: Sequence[CapacityGroup], total: int, used: Iterable[tuple[str | None, int]]) -> None:
        """The groups there are from now on, what the cluster has, and what is used at present, by group."""
        freed = 1 + max((cohort.freed for cohort in self._cohorts.values()), default=0)
        self._accounts, self._cohorts, self._members = {}, {}, {}
        rest = max(0, total - sum(group.nominal for group in groups))
        for group in sorted([*groups, CapacityGroup(OPEN, None, rest)], key=lambda group: group.name):
            key = group.cohort or f"\0{group.name}"
            cohort = self._cohorts.setdefault(key, _Cohort(freed=freed))
            account = _Account(group, cohort)
            self._accounts[group.name] = account
            self._members.setdefault(key, []).append(group.name)
            cohort.lendable += group.nominal - account.own
        for name, milli in used:
            self.take(name, milli)

    @property
    def any_group(self) -> bool:
        return len(self._accounts) > 1

    def take(self, name: str | None, milli: int) -> None:
        if (account := self._account(name)) is not None:
            account.cohort.taken -= account.shared_use
            account.used += milli
            account.cohort.taken += account.shared_use

    def give_back(self, name: str | None, milli: int) -> None:
        if (account := self._account(name)) is not None:
            self.take(name, -milli)
            account.cohort.freed += 1

    def group(self, name: str | None) -> CapacityGroup | None:
        account = self._account(name)
        return account.group if account else None

    def cohort_members(self, name: str | None) -> Iterable[str]:
        account = self._account(name)
        assert account is not None, "without groups nobody is a member of one"
        group = account.group
        return self._members[group.cohort or f"\0{name}"]

    def freed(self, name: str | None) -> int:
        """As long as this is the same, what did not fit into the group does not fit."""
        account = self._account(name)
        return account.cohort.freed if account else 0

    def used(self, name: str) -> int:
        return self._accounts[name].used

    def available(self, name: str | None) -> int | None:
        """How much more the group may use now; None if no group limits it."""
        account = self._account(name)
        if account is None or not self.any_group:
            return None
        left = max(0, account.own - account.used) + account.cohort.lendable - account.cohort.taken
        if account.group.cohort and account.group.borrowing_limit is not None:
            left = min(left, account.group.nominal + account.group.borrowing_limit - account.used)
        return left

    def most(self, name: str | None) -> int | None:
        """How much the group could use if nobody else used anything; None if no group limits it."""
        account = self._account(name)
        if account is None or not self.any_group:
            return None
        if not account.group.cohort:
            return account.group.nominal
        most = account.own + account.cohort.lendable
        if account.group.borrowing_limit is not None:
            most = min(most, account.group.nominal + account.group.borrowing_limit)
        return most

    def fits(self, name: str | None, milli: int, *, preemptible: bool = False) -> bool:
        available = self.available(name)
        return available is None or milli <= available or (preemptible and self.is_open(name))

    def is_open(self, name: str | None) -> bool:
        """Whether it belongs to no group that there is."""
        return (name or OPEN) not in self._accounts or (name or OPEN) == OPEN

    def borrows(self, name: str | None, milli: int) -> bool:
        """Whether the group would use more than its own with so much more."""
        account = self._account(name)
        return account is not None and account.used + milli > account.group.nominal

    def _account(self, name: str | None) -> "_Account | None":
        return self._accounts.get(name or OPEN) or self._accounts.get(OPEN)
