"""What of a customer's money may leave: decided under the locks of their accounts, which stay until the commit."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.accounts import Accounts, Owner, accounts_of, lock_accounts
from api.billing.open_credits import Credit, read_credits

_BALANCES = text("select id, balance_micro, credit_limit_micro from accounts where id = any(:ids)")


@dataclass(frozen=True, slots=True)
class Funds:
    """A customer's locked accounts, in micro-units."""

    accounts: Accounts
    wallet_micro: int
    held_micro: int
    paid_in_micro: int
    revenue_micro: int
    adjusted_micro: int  # what adjustments gave in all, less what they took
    credit_limit_micro: int
    credits: tuple[Credit, ...]  # what is open of promotions, in the order in which they are spent

    @property
    def refundable_micro(self) -> int:
        """What was paid in and is free: neither held for what runs, nor given by the platform, nor credit."""
        given = max(0, self.adjusted_micro)
        return max(0, min(self.paid_in_micro, self.wallet_micro - self._promised_micro - given))

    @property
    def deductible_micro(self) -> int:
        """The most that an adjustment may take."""
        return max(0, self.wallet_micro + self.credit_limit_micro - self._promised_micro)

    @property
    def _promised_micro(self) -> int:
        """What of the wallet must stay for promotions: what runs is paid with them first."""
        return max(0, sum(credit.left_micro for credit in self.credits) - self.held_micro)


def lock_funds(session: Session, owners: Collection[Owner]) -> Mapping[Owner, Funds]:
    """The funds of several owners, all locked at once in the order of the accounts' ids."""
    accounts = accounts_of(session, owners)
    ids = [account for each in accounts.values() for account in _decisive(each)]
    lock_accounts(session, ids)
    credits = read_credits(session, owners)
    balances = {row.id: row for row in session.execute(_BALANCES, {"ids": ids})}
    return {
        owner: Funds(
            accounts=each,
            wallet_micro=balances[each.wallet].balance_micro,
            held_micro=balances[each.holds].balance_micro,
            paid_in_micro=-balances[each.funding].balance_micro,
            revenue_micro=balances[each.revenue].balance_micro,
            adjusted_micro=-balances[each.adjustments].balance_micro,
            credit_limit_micro=balances[each.wallet].credit_limit_micro,
            credits=credits.get(owner, ()),
        )
        for owner, each in accounts.items()
    }


def _decisive(accounts: Accounts) -> tuple[int, ...]:
    return accounts.wallet, accounts.holds, accounts.funding, accounts.revenue, accounts.adjustments
