"""Capacity groups: guaranteed shares, and what is lent and borrowed inside a cohort.

What no group is guaranteed belongs to the open group, of all requests that name none. Preemptible ones may go beyond
it, since they give way to the groups' own; and they take nothing of it from those that are not preemptible. Else one of
these would have to wait until they are evicted, only for them to begin again beside it.

The model is Kueue's: a group has a nominal quota; what it does not use, up to its lending limit, the other groups of
its cohort may borrow, each up to its borrowing limit. Amounts are thousandths of GPUs.

Beside what is used there is what is kept, in a cycle, for requests that come before others. It stands against whoever
comes after, but not against another group's use of its own.
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
    kept: int = 0  # of what is lendable, beside that
    freed: int = 0  # rises whenever something was given back, or the groups changed
    borrowers: set[str] = field(default_factory=set)  # the groups that use more than their own


@dataclass(slots=True)
class _Account:
    group: CapacityGroup
    cohort: _Cohort
    own: int  # what is never lent
    used: int = 0
    kept: int = 0
    yielding: int = 0  # used beside that by preemptible ones of the open group

    @staticmethod
    def of(group: CapacityGroup, cohort: _Cohort) -> "_Account":
        lending = group.nominal if group.lending_limit is None else min(group.lending_limit, group.nominal)
        return _Account(group, cohort, group.nominal - lending if group.cohort else group.nominal)

    def shared(self, milli: int) -> int:
        """How much of the cohort's it takes to use so much."""
        return milli - self.own if milli > self.own else 0

    def use(self, milli: int) -> None:
        before, after = self.used, self.used + milli
        self.used = after
        if after > self.group.nominal >= before:
            self.cohort.borrowers.add(self.group.name)
        elif before > self.group.nominal >= after:
            self.cohort.borrowers.discard(self.group.name)
        taken = self.shared(after) - self.shared(before)
        self.cohort.taken += taken
        if self.kept:
            self.cohort.kept += self.shared(after + self.kept) - self.shared(before + self.kept) - taken

    def keep(self, milli: int) -> None:
        before = self.shared(self.used + self.kept)
        self.kept += milli
        self.cohort.kept += self.shared(self.used + self.kept) - before

    def left(self, milli: int, *, beside_kept: bool = True) -> int:
        """How much more it may use, if it asks for so much."""
        counted, kept = self.used, 0
        if beside_kept:
            counted += self.kept
            own_kept = self.shared(counted) - self.shared(self.used)
            kept = own_kept if counted + milli <= self.group.nominal else self.cohort.kept
        left = max(0, self.own - counted) + self.cohort.lendable - self.cohort.taken - kept
        if self.group.cohort and self.group.borrowing_limit is not None:
            left = min(left, self.group.nominal + self.group.borrowing_limit - counted)
        return left


@dataclass(slots=True)
class Capacity:
    """What each group uses. While there are no groups nothing is limited."""

    _accounts: dict[str, _Account] = field(default_factory=dict)
    _cohorts: dict[str, _Cohort] = field(default_factory=dict)
    _members: dict[str, list[str]] = field(default_factory=dict)

    def define(self, groups: Sequence[CapacityGroup], total: int, used: Iterable[tuple[str | None, int, bool]]) -> None:
        """The groups there are from now on, what the cluster has, and what is used at present: by which group,
        how much, and whether it is preemptible.
        """
        freed = 1 + max((cohort.freed for cohort in self._cohorts.values()), default=0)
        self._accounts, self._cohorts, self._members = {}, {}, {}
        rest = max(0, total - sum(group.nominal for group in groups))
        for group in sorted([*groups, CapacityGroup(OPEN, None, rest)], key=lambda group: group.name):
            key = _cohort_of(group)
            cohort = self._cohorts.setdefault(key, _Cohort(freed=freed))
            account = _Account.of(group, cohort)
            self._accounts[group.name] = account
            self._members.setdefault(key, []).append(group.name)
            cohort.lendable += group.nominal - account.own
        for name, milli, preemptible in used:
            self.take(name, milli, preemptible=preemptible)

    @property
    def any_group(self) -> bool:
        return len(self._accounts) > 1

    def take(self, name: str | None, milli: int, *, preemptible: bool = False) -> None:
        if (account := self._account(name)) is None:
            return
        if preemptible and self.is_open(name):
            account.yielding += milli
        else:
            account.use(milli)

    def give_back(self, name: str | None, milli: int, *, preemptible: bool = False) -> None:
        self.take(name, -milli, preemptible=preemptible)
        if (account := self._account(name)) is not None:
            account.cohort.freed += 1

    def keep(self, name: str | None, milli: int, *, preemptible: bool = False) -> None:
        """So much more is kept from those who come after; less, if it is negative."""
        account = self._account(name)
        if account is not None and not (preemptible and self.is_open(name)):
            account.keep(milli)

    def name(self, name: str | None) -> str:
        """Of the group that such a request is charged to: who names one that there is not is in the open group."""
        return name if name in self._accounts and name is not None else OPEN

    def group(self, name: str | None) -> CapacityGroup | None:
        account = self._account(name)
        return account.group if account else None

    def cohort(self, name: str | None) -> Sequence[str]:
        """The groups that share with it, and itself."""
        account = self._account(name)
        return self._members[_cohort_of(account.group)] if account is not None else (OPEN,)

    def borrowers(self, name: str | None) -> Sequence[str]:
        """The groups of its cohort that use more than their own."""
        account = self._account(name)
        return sorted(account.cohort.borrowers) if account is not None else ()

    def freed(self, name: str | None) -> int:
        """As long as this is the same, what did not fit into the group does not fit."""
        account = self._account(name)
        return account.cohort.freed if account else 0

    def used(self, name: str) -> int:
        return self._accounts[name].used

    def available(self, name: str | None, milli: int = 0, *, beside_kept: bool = True) -> int | None:
        """How much more the group may use now, if it asks for so much; None if no group limits it."""
        account = self._account(name)
        return None if account is None or not self.any_group else account.left(milli, beside_kept=beside_kept)

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

    def fits(self, name: str | None, milli: int, *, preemptible: bool = False, beside_kept: bool = True) -> bool:
        available = self.available(name, milli, beside_kept=beside_kept)
        return not milli or available is None or milli <= available or (preemptible and self.is_open(name))

    def is_open(self, name: str | None) -> bool:
        """Whether it belongs to no group that there is."""
        return self.name(name) == OPEN

    def borrows(self, name: str | None, milli: int, *, preemptible: bool = True) -> bool:
        """Whether the group would use more than its own with so much more. What is preemptible in the open group counts
        for what is `preemptible` only. Without groups, nobody owns anything.
        """
        account = self._account(name)
        if account is None or not self.any_group:
            return False
        return account.used + milli + (account.yielding if preemptible else 0) > account.group.nominal

    def _account(self, name: str | None) -> "_Account | None":
        return self._accounts.get(name or OPEN) or self._accounts.get(OPEN)


def _cohort_of(group: CapacityGroup) -> str:
    """Its cohort's name; a group in none has one of its own."""
    return group.cohort or f"\0{group.name}"
