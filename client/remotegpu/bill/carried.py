"""What one file says about where the next one has to begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remotegpu.bill.bodies import Bill, Group, MeterLine, Position
from remotegpu.bill.journal import Boundary
from remotegpu.bill.lines import BadLine
from remotegpu.bill.meters import Place
from remotegpu.bill.spans import Spans


@dataclass(frozen=True)
class Carried:
    """The end of a bill's period. `head` is what its head covers; `whole`: the files go back to the first record."""

    bill: Bill
    head: Position
    chain: Place
    journal: Boundary
    spans: dict[Group, Spans]
    whole: bool

    def check_bill(self, number: int, bill: Bill) -> None:
        if (bill.customer, bill.currency) != (self.bill.customer, self.bill.currency):
            raise BadLine(number, "the bill is another customer's than the one before, or of another currency")
        if bill.from_ms != self.bill.to_ms or not self.bill.closed:
            raise BadLine(
                number, f"the bill does not follow a closed one of the month before, but one of {self.bill.period}"
            )
        if bill.chain != self.chain.position:
            raise BadLine(number, "the records do not begin where those of the bill before end")
        if _present(bill.opening) != _present(self.journal.balances):
            raise BadLine(number, "the opening balances are not those with which the bill before ends")

    def check_meter(self, number: int, found: MeterLine) -> None:
        known = found.id in self.chain.sealed_ms
        if not known and not self.whole:
            return  # it may be older than the first file
        before = self.chain.sealed_ms.get(found.id, 0), self.journal.posted_ms.get(found.id, 0)
        if before != (found.sealed_before_ms, found.posted_before_ms):
            raise BadLine(number, "the meter does not begin where the bills before leave it")


def _present(balances: Mapping[str, int]) -> dict[str, int]:
    return {account: amount for account, amount in balances.items() if amount}
