"""Random lives under lost, doubled, late and reordered reports: the ledger equals an independent computation, exactly.

The model knows rational numbers and a sweep over end points; it shares no arithmetic with the platform.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from api.billing import statement
from api.billing.prices import Payer, Quote, create_price, load_prices
from api.billing.settlement import sweep_holds
from api.billing.statement import Period
from api.billing.stretches import stretches_of
from api.billing.tables import Hold
from api.billing.verify import check
from api.clock import to_ms
from api.db import Database
from scheduler.host_protocol import UsageWindow
from tests.db.ledger_world import Lease, World

GPUS = 4
HOUR_MS = 3_600_000
PROMISES = st.sampled_from([60, 125, 200, None])  # seconds for which a price is kept
EVER = Period(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Version:
    """A price as the model knows it; `own` is the customer's."""

    id: int
    micro: int
    own: bool
    preemptible_permille: int
    kept_for_s: int | None

    def effective(self, *, preemptible: bool) -> int:
        off = Fraction(self.preemptible_permille, 1000) if preemptible else 0
        return math.floor(self.micro * (1 - off))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Time at one price, which is kept until then, or (None) to the end."""

    from_ms: int
    until_ms: int | None
    version_id: int
    micro: int


@dataclass(eq=False)
class Life:
    """One allocation from its placing on, as the model sees it."""

    lease: Lease
    stretches: list[Stretch]
    preemptible: bool
    milli: int
    run_until_ms: int
    ran_to_ms: int
    ended_ms: int | None = None
    alive: bool = True
    last: UsageWindow | None = None  # what its host had yet to deliver at the confirmed end
    outbox: list[tuple[int, UsageWindow]] = field(default_factory=list)
    sent: list[tuple[int, UsageWindow]] = field(default_factory=list)
    proof: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def receive(self, gpu: int, window: UsageWindow) -> None:
        """What counts of a window at the moment of its first arrival."""
        limit = self.run_until_ms if self.ended_ms is None else min(self.run_until_ms, self.ended_ms)
        start, end = max(window.from_ms, self.lease.starts_ms), min(window.to_ms, limit)
        if start < end:
            self.proof[gpu].append((start, end))

    def cost(self) -> int:
        return sum(self.lines().values())

    def lines(self) -> dict[int, int]:
        """What is charged by each price version, where anything was proven; rounded by device and stretch."""
        charged: defaultdict[int, int] = defaultdict(int)
        ends = [*(stretch.from_ms for stretch in self.stretches[1:]), math.inf]
        for stretch, end in zip(self.stretches, ends, strict=True):
            for spans in self.proof.values():
                inside = [(max(start, stretch.from_ms), min(stop, end)) for start, stop in spans]
                if length := _covered([(start, int(stop)) for start, stop in inside if start < stop]):
                    exact = Fraction(stretch.micro * self.milli * length, 1000 * HOUR_MS)
                    charged[stretch.version_id] += _half_up(exact)
        return charged

    def cost_of_all(self) -> int:
        """When everything that was written has arrived."""
        later = replace(self, proof=defaultdict(list, {gpu: list(spans) for gpu, spans in self.proof.items()}))
        for gpu, window in self.outbox:
            later.receive(gpu, window)
        return later.cost()

    def duration_ms(self) -> int:
        return sum(_covered(spans) for spans in self.proof.values())


def _later(moment_ms: int, length_ms: int | None) -> int | None:
    return None if length_ms is None else moment_ms + length_ms


def _span(stretch: Stretch) -> tuple[int, int | None]:
    return stretch.from_ms, stretch.until_ms


def _half_up(amount: Fraction) -> int:
    return math.floor(amount + Fraction(1, 2))


def _covered(spans: list[tuple[int, int]]) -> int:
    """Length of the time that at least one span covers, by counting how many are open at each end point."""
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    depth = covered = last = 0
    for at, change in events:
        covered += at - last if depth else 0
        depth, last = depth + change, at
    return covered


def _in_order(chosen: list[tuple[Life, tuple[int, UsageWindow]]]) -> list[tuple[Life, tuple[int, UsageWindow]]]:
    """Less the windows that their hosts announced as the last ones, unless all others of their leases are there too."""
    early = [
        item
        for item in chosen
        if item[1][1] is item[0].last and len(item[0].outbox) > sum(life is item[0] for life, _ in chosen)
    ]
    return [item for item in chosen if item not in early]


class Ledger(RuleBasedStateMachine):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self.world = World(database)
        self.lives: list[Life] = []
        self.versions: list[Version] = []  # of one GPU model, the latest last
        self.paid = 0

    @initialize(
        balance=st.one_of(st.just(10**12), st.integers(0, 40_000_000)),
        price=st.integers(0, 1_000_000_007),
        kept_for_s=PROMISES,
    )
    def begin(self, balance: int, price: int, kept_for_s: int | None) -> None:
        self.customer = self.world.customer()
        self.stranger = self.world.customer(balance_micro=1_000_000)
        # A model of its own, so that no other example's price is found.
        self.model = f"Model{self.customer.id}"
        self.host, self.gpus = self.world.host(gpus=GPUS, model=f"NVIDIA {self.model} 80GB")
        self.change_price(price, own=False, preemptible_permille=0, kept_for_s=kept_for_s)
        if balance:
            self.top_up(balance)

    @rule(amount=st.integers(1, 50_000_000))
    def top_up(self, amount: int) -> None:
        self.world.top_up(self.customer, amount)
        self.paid += amount

    @rule(
        price=st.integers(0, 1_000_000_007),
        own=st.booleans(),
        preemptible_permille=st.sampled_from([0, 1, 333, 500, 999, 1000]),
        kept_for_s=PROMISES,
    )
    def change_price(self, price: int, own: bool, preemptible_permille: int, kept_for_s: int | None) -> None:
        """The list's, or the customer's own, which comes before it whatever the list says later."""
        made = self.world.database.transact(
            lambda session: create_price(
                session,
                gpu_model=self.model,
                price_micro=price,
                effective_from=self.world.now,
                customer_id=self.customer.id if own else None,
                preemptible_discount_permille=preemptible_permille,
                kept_for_s=kept_for_s,
            )
        )
        self.versions.append(Version(made.id, price, own, preemptible_permille, kept_for_s))

    def _latest(self) -> Version:
        """The one that counts now, by the model."""
        return ([version for version in self.versions if version.own] or self.versions)[-1]

    def _quote(self, *, preemptible: bool) -> Quote:
        """The same, by the platform."""
        prices = self.world.database.transact(lambda session: load_prices(session, at=self.world.now))
        found = prices.price_of(f"NVIDIA {self.model} 80GB", Payer(self.customer.id, "USD"))
        assert found is not None
        return found.quote(preemptible=preemptible, reserved=False)

    def _free(self) -> list[int]:
        taken = {gpu.id for life in self.lives if life.alive for gpu in life.lease.gpus}
        return [i for i, gpu in enumerate(self.gpus) if gpu.id not in taken]

    @precondition(lambda self: self._free())
    @rule(count=st.integers(1, 2), milli=st.sampled_from([1000, 1000, 333, 1]), preemptible=st.booleans())
    def start(self, count: int, milli: int, preemptible: bool) -> None:
        devices = tuple(self.gpus[i] for i in self._free()[:count])
        allocation = self.world.queue(self.customer, gpus=len(devices), preemptible=preemptible)
        before = self.world.balance(self.customer)
        lease = self.world.place(allocation, self._quote(preemptible=preemptible), devices, milli=milli)
        version = self._latest()
        price = version.effective(preemptible=preemptible)
        worst = Fraction(price * milli * len(devices) * 120_000, 1000 * HOUR_MS)
        if lease is None:
            assert before.available_micro < math.ceil(worst) + len(devices)
            return
        assert before.available_micro >= worst
        kept_ms = None if version.kept_for_s is None else max(1000 * version.kept_for_s, 120_000)
        first = Stretch(lease.starts_ms, _later(lease.starts_ms, kept_ms), version.id, price)
        self.lives.append(Life(lease, [first], preemptible, milli, lease.starts_ms + 60_000, lease.starts_ms))

    def _some(self, number: int, lives: list[Life]) -> Life:
        return lives[number % len(lives)]

    @precondition(lambda self: any(life.alive for life in self.lives))
    @rule(
        milliseconds=st.integers(1, 25_000),
        parts=st.lists(st.integers(0, 1000), min_size=1, max_size=4),
        skipped=st.booleans(),
    )
    def run(self, milliseconds: int, parts: list[int], skipped: bool) -> None:
        """Time passes; every daemon writes windows up to its lease's limit (and a bad one beyond), with gaps."""
        self.world.pass_time(milliseconds)
        for life in (each for each in self.lives if each.alive):
            end = max(min(self.world.now_ms, life.run_until_ms + 500), life.ran_to_ms)
            lasted = end - life.ran_to_ms
            cuts = sorted({life.ran_to_ms, end, *(life.ran_to_ms + lasted * part // 1000 for part in parts)})
            spans = list(pairwise(cuts))
            for number, (start, stop) in enumerate(spans):
                if skipped and number == 1:
                    continue
                for gpu in range(len(life.lease.gpus)):
                    window = self.world.window(life.lease, start, stop, gpu=gpu, milli=life.milli)
                    life.outbox.append((gpu, window))
            life.ran_to_ms = end

    @precondition(lambda self: any(life.outbox for life in self.lives))
    @rule(data=st.data(), doubled=st.booleans(), lost_reply=st.booleans())
    def deliver(self, data: st.DataObject, doubled: bool, lost_reply: bool) -> None:
        """Any part of what waits, of several allocations, in any order, with old windows among it."""
        waiting = [(life, item) for life in self.lives for item in life.outbox]
        chosen = data.draw(st.lists(st.sampled_from(range(len(waiting))), min_size=1, max_size=8, unique=True))
        batch = []
        for life, (gpu, window) in _in_order([waiting[index] for index in chosen]):
            life.outbox.remove((gpu, window))
            life.receive(gpu, window)
            life.sent.append((gpu, window))
            batch.append(window)
        if not batch:
            return  # all that was chosen has to wait for others
        if doubled:
            old = [window for life in self.lives for _, window in life.sent]
            batch += data.draw(st.lists(st.sampled_from(old), max_size=4))
        for _ in range(1 + lost_reply):
            self.world.deliver(self.host.id, *data.draw(st.permutations(batch)))

    @precondition(lambda self: any(life.alive for life in self.lives))
    @rule(number=st.integers(0, 99))
    def renew(self, number: int) -> None:
        self._renew(self._some(number, [each for each in self.lives if each.alive]))

    @precondition(lambda self: any(life.alive for life in self.lives))
    @rule(price=st.integers(0, 1_000_000_007), kept_for_s=PROMISES, rounds=st.sampled_from([4, 6, 9]))
    def outlive_a_promise(self, price: int, kept_for_s: int | None, rounds: int) -> None:
        """Another price is set, and all that lives is renewed for long enough to come to it."""
        self.change_price(price, own=True, preemptible_permille=250, kept_for_s=kept_for_s)
        for _ in range(rounds):
            self.world.pass_time(31_007)
            for life in (each for each in self.lives if each.alive):
                self._renew(life)

    def _renew(self, life: Life) -> None:
        before = self.world.balance(self.customer).balance_micro
        life.run_until_ms = to_ms(self.world.renew(life.lease))
        assert self.world.balance(self.customer).balance_micro == before
        self._follow_prices(life)

    def _follow_prices(self, life: Life) -> None:
        """Each promise that has run out in what was paid for was followed by the price of now, and by no other."""
        with self.world.database.session() as session:
            hold = session.get_one(Hold, (life.lease.allocation_id, life.lease.generation))
            stretches = [
                Stretch(each.from_ms, each.until_ms, each.price_version_id, each.price_micro_per_gpu_hour)
                for each in stretches_of(session, hold)
            ]
            covers_until_ms = hold.covers_until_ms
        version = self._latest()
        while _span(last := life.stretches[-1]) != _span(stretches[-1]):
            assert last.until_ms is not None
            assert last.from_ms <= stretches[-1].from_ms, "it has a price that none came before"
            until_ms = _later(last.until_ms, None if version.kept_for_s is None else 1000 * version.kept_for_s)
            micro = version.effective(preemptible=life.preemptible)
            if (last.version_id, last.micro) == (version.id, micro):
                life.stretches[-1] = replace(last, until_ms=until_ms)
            else:
                life.stretches.append(Stretch(last.until_ms, until_ms, version.id, micro))
        assert [(each.from_ms, each.version_id, each.micro) for each in life.stretches] == [
            (each.from_ms, each.version_id, each.micro) for each in stretches
        ]
        last = life.stretches[-1]
        assert last.until_ms is None or covers_until_ms <= last.until_ms, "nothing is paid for beyond a promise"
        assert covers_until_ms > last.from_ms, "and no price is chosen before it is paid"

    @precondition(lambda self: any(life.alive for life in self.lives))
    @rule(number=st.integers(0, 99))
    def stop(self, number: int) -> None:
        life = self._some(number, [each for each in self.lives if each.alive])
        life.alive, life.ended_ms = False, self.world.now_ms
        life.last = life.outbox[-1][1] if life.outbox else None
        self.world.release(life.lease, ended_at_ms=life.ended_ms, last=life.last)

    @precondition(lambda self: any(life.last and life.outbox for life in self.lives))
    @rule(number=st.integers(0, 99), kept=st.integers(0, 1))
    def ship_what_is_left(self, number: int, kept: int) -> None:
        """A host ships the spool of an ended lease in its order: all of it, or all but the last window."""
        life = self._some(number, [each for each in self.lives if each.last and each.outbox])
        shipped = life.outbox[: len(life.outbox) - kept]
        for gpu, window in shipped:
            life.receive(gpu, window)
        life.sent += shipped
        life.outbox = life.outbox[len(shipped) :]
        self.world.deliver(self.host.id, *(window for _, window in shipped))

    @precondition(lambda self: any(life.alive for life in self.lives))
    @rule()
    def lose_host(self) -> None:
        for life in (each for each in self.lives if each.alive):
            life.alive = False
            self.world.release(life.lease, ended_at_ms=None)

    @rule()
    def sweep(self) -> None:
        self.world.database.transact(lambda session: sweep_holds(session, self.world.now))

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "customer"):
            return
        cost = sum(life.cost() for life in self.lives)
        found = self.world.balance(self.customer)
        assert found.balance_micro == self.paid - cost
        assert found.available_micro >= 0
        assert found.held_micro >= 0
        assert self.world.balance(self.stranger).balance_micro == 1_000_000
        with self.world.database.session() as session:
            assert check(session) == []
            for life in (each for each in self.lives if each.ended_ms is not None):
                hold = session.get_one(Hold, (life.lease.allocation_id, life.lease.generation))
                assert hold.closed_at is not None or life.outbox, "no proof can come any more"
                assert hold.closed_at is None or life.cost_of_all() == life.cost(), "proof may come and cost"
            totals = statement.totals(session, self.customer.id, EVER)
            lines, _ = statement.lines(session, self.customer.id, EVER, cursor=None, limit=200)
        assert (totals.opening_micro, totals.top_ups_micro, totals.usage_micro) == (0, self.paid, cost)
        assert totals.closing_micro == found.balance_micro
        assert totals.duration_ms == sum(life.duration_ms() for life in self.lives)
        assert sorted(int(line.amount_micro) for line in lines) == sorted(
            amount for life in self.lives for amount in life.lines().values()
        )

    def teardown(self) -> None:
        """In the end everything arrives, and what is charged is what was proven before each limit."""
        for life in self.lives:
            for gpu, window in life.outbox:
                life.receive(gpu, window)
            if life.outbox:
                self.world.deliver(self.host.id, *(window for _, window in reversed(life.outbox)))
            life.outbox.clear()
        self.the_books_are_right()


def test_the_ledger_is_exact(database: Database) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis leaves it untyped
        lambda: Ledger(database),
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=False,
        ),
    )
