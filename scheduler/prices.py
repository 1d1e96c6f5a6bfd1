"""What an hour of a GPU costs by the terms on which it is taken, in whole micro-units."""

from dataclasses import dataclass
from enum import StrEnum

from scheduler.money import discounted_micro


class PriceTerms(StrEnum):
    ON_DEMAND = "on_demand"
    PREEMPTIBLE = "preemptible"  # it may have to give way
    RESERVED = "reserved"  # in an advance reservation


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-units per GPU hour, by terms."""

    on_demand: int
    preemptible: int
    reserved: int

    @staticmethod
    def of(price_micro: int, *, preemptible_permille: int = 0, reserved_permille: int = 0) -> "Rates":
        """A price with the discounts of its version, in thousandths."""
        return Rates(
            price_micro,
            discounted_micro(price_micro, discount_permille=preemptible_permille),
            discounted_micro(price_micro, discount_permille=reserved_permille),
        )

    def at(self, terms: PriceTerms) -> int:
        match terms:
            case PriceTerms.ON_DEMAND:
                return self.on_demand
            case PriceTerms.PREEMPTIBLE:
                return self.preemptible
            case PriceTerms.RESERVED:
                return self.reserved

    def best(self, *, preemptible: bool, reserved: bool) -> PriceTerms:
        """The terms that count for a request: discounts do not add up, the lower price is taken."""
        if preemptible and reserved:
            return PriceTerms.PREEMPTIBLE if self.preemptible <= self.reserved else PriceTerms.RESERVED
        if preemptible:
            return PriceTerms.PREEMPTIBLE
        return PriceTerms.RESERVED if reserved else PriceTerms.ON_DEMAND
