"""Bills of random lives, exported and signed, for tests of what their verification finds."""

import io
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from api.billing.chain.bill import Export, prepare, stream
from api.billing.chain.month import Month
from api.billing.chain.sealing import seal
from api.billing.prices import Quote, create_price
from api.clock import utc_now
from api.db import Database
from api.settings import Settings
from api.tenants.tables import Customer
from remotegpu.bill import Verified, Verifier
from scheduler.money import discounted_micro
from scheduler.prices import PriceTerms
from tests.db.ledger_world import Lease, World


@dataclass(slots=True)
class BillWorld:
    """Exports what happens in `world`. Journal and chain go by the database's clock: all of it happens this month."""

    world: World
    settings: Settings

    @property
    def database(self) -> Database:
        return self.world.database

    def seal(self, customer: Customer) -> None:
        while not self.database.transact(lambda session: seal(session, customer.id)):
            pass

    def prepare(self, customer: Customer, *, now: datetime | None = None, period: Month | None = None) -> Export:
        now = now or utc_now()
        return prepare(self.database, self.settings, customer.id, period or Month.of(utc_now()), now=now)

    def export(self, customer: Customer, *, now: datetime | None = None, period: Month | None = None) -> bytes:
        return b"".join(stream(self.database, self.prepare(customer, now=now, period=period)))

    def live(self, customer: Customer, *, seed: int, steps: int = 12) -> None:
        """A random life: shares of devices start and stop, prices change, reports come late, twice, out of order."""
        chance = random.Random(seed)
        host, gpus = self.world.host(gpus=4)
        price = self._quote(chance)
        leases: list[Lease] = []
        written: list[tuple[Lease, int, int, int]] = []  # not delivered yet
        for _ in range(steps):
            if len(leases) < 2 and chance.random() < 0.7:
                price = self._quote(chance) if chance.random() < 0.3 else price
                free = [gpu for gpu in gpus if all(gpu not in lease.gpus for lease in leases)]
                leases.append(self.world.start(customer, price, tuple(free[: chance.randrange(1, 3)])))
            lasted = chance.randrange(1000, 20_000)
            for lease in leases:
                cuts = sorted({0, lasted, *(chance.randrange(lasted) for _ in range(3))})
                for start, end in pairwise(cuts):
                    written += [
                        (lease, gpu, self.world.now_ms + start, self.world.now_ms + end)
                        for gpu in range(len(lease.gpus))
                    ]
            self.world.pass_time(lasted)
            for lease in leases:
                self.world.renew(lease)
            chance.shuffle(written)
            sent, written = written[:-2], written[-2:]
            windows = [self.world.window(lease, start, end, gpu=gpu) for lease, gpu, start, end in sent]
            self.world.deliver(host.id, *windows, *windows[:1])
            if chance.random() < 0.6:
                self.seal(customer)
            if leases and chance.random() < 0.3:
                self.world.release(leases.pop(0), ended_at_ms=self.world.now_ms)

    def _quote(self, chance: random.Random) -> Quote:
        """On any terms of a new version."""
        permille = {PriceTerms.PREEMPTIBLE: chance.randrange(1001), PriceTerms.RESERVED: chance.randrange(1001)}
        made = self.database.transact(
            lambda session: create_price(
                session,
                gpu_model="A100",
                price_micro=chance.randrange(1, 4_000_000),
                preemptible_discount_permille=permille[PriceTerms.PREEMPTIBLE],
                reserved_discount_permille=permille[PriceTerms.RESERVED],
            )
        )
        terms = chance.choice(list(PriceTerms))
        discount = permille.get(terms, 0)
        return Quote(made.id, made.currency, terms, discounted_micro(made.price_micro, discount_permille=discount))


def check(bill: bytes) -> Verified:
    return Verifier().verify(io.BytesIO(bill))


def month_after(moment: datetime) -> datetime:
    """The moment at which that one's month is closed."""
    return Month.of(moment).end + timedelta(minutes=15)


BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
