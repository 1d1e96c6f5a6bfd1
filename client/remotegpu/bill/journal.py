"""The journal of a bill: every transaction balances, and every charge is the price of its time."""

from __future__ import annotations

from dataclasses import dataclass

from remotegpu.bill.bodies import Bill, Posting, Totals, Transaction
from remotegpu.bill.charges import charge
from remotegpu.bill.lines import BadLine
from remotegpu.bill.meters import Count, Meters, unsealed_ms


@dataclass
class Journal:
    """`boundary` is kept where the first transaction of a later month is met: where the next file begins."""

    bill: Bill
    meters: Meters
    balances: dict[str, int]
    amount_micro: int = 0
    duration_ms: int = 0
    transactions: int = 0
    boundary: Boundary | None = None

    def take(self, number: int, found: Transaction) -> None:
        if found.at_us >= self.bill.to_ms * 1000 and self.boundary is None:
            self.boundary = self.mark()
        if not found.postings or sum(posting.amount_micro for posting in found.postings) != 0:
            raise BadLine(number, "the transaction's postings do not sum to zero")
        within = self.bill.from_ms * 1000 <= found.at_us < self.bill.to_ms * 1000
        for posting in found.postings:
            if posting.account not in self.balances:
                raise BadLine(number, f"there is no account {posting.account}")
            self.balances[posting.account] += posting.amount_micro
            if posting.meter is not None or posting.duration_ms is not None:
                self._charge(number, posting, within=within)
        self.transactions += 1

    def _charge(self, number: int, posting: Posting, *, within: bool) -> None:
        count = self.meters.counts.get(posting.meter or "")
        if count is None or posting.duration_ms is None or posting.account != "holds":
            raise BadLine(number, "the charge is not from the holds, or of no meter of the file, or for no time")
        before = count.posted_ms
        count.posted_ms += posting.duration_ms
        right = _cost(count, before) - _cost(count, count.posted_ms)
        if posting.amount_micro != right:
            raise BadLine(number, f"the charge is {-posting.amount_micro}, and its time costs {-right}")
        if within:
            self.amount_micro -= posting.amount_micro
            self.duration_ms += posting.duration_ms

    def close(self, number: int, totals: Totals) -> None:
        if (totals.amount_micro, totals.duration_ms) != (self.amount_micro, self.duration_ms):
            said = f"{self.amount_micro} micro-units for {self.duration_ms} ms"
            raise BadLine(number, f"the totals are not those of the period's charges, {said}")
        if totals.closing != self.balances:
            raise BadLine(number, "the closing balances are not those that the transactions lead to")
        if self.bill.closed and (missing := unsealed_ms(self.meters.counts)):
            raise BadLine(number, f"{missing} ms were paid for that no record seals")

    def mark(self) -> Boundary:
        posted = {key: count.posted_ms for key, count in self.meters.counts.items()}
        return Boundary(dict(self.balances), posted)


@dataclass(frozen=True)
class Boundary:
    """Balances by account, and time paid for by meter, between two transactions."""

    balances: dict[str, int]
    posted_ms: dict[str, int]


def _cost(count: Count, duration_ms: int) -> int:
    meter = count.meter
    return charge(price_micro=meter.price_micro_per_gpu_hour, milli=meter.milli, duration_ms=duration_ms)
