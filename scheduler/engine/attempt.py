"""One request's attempt to start: where, or why not and what is to be kept and cleared for it. Changes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from scheduler.demand import Demand
from scheduler.engine import booked, verdicts
from scheduler.engine.blocked import Blocked, Code
from scheduler.engine.expected_ends import ExpectedEnd, in_order
from scheduler.engine.kept import Asides, Kept
from scheduler.engine.limits import within_limits
from scheduler.engine.lookahead import Lookahead
from scheduler.engine.preemption import Preemption, Sacrifice
from scheduler.engine.state import State
from scheduler.engine.staying import is_free, stay_or_move
from scheduler.money import MILLI_PER_GPU
from scheduler.views import Held, Part, Request

SEARCHES_OF_A_PREEMPTION = 50  # how many it counts for
SEARCHES_OF_A_LOOK_AHEAD = 100

Found = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Waits:
    """`kept` is the place to keep from now on; None: none. The `victims` have to give way. `sought` is what was looked
    for, if that is narrower than what was asked. Without a place the verdict says so only: `no_place.told` says why.
    """

    verdict: Blocked
    kept: Kept | None = None
    victims: tuple[Held, ...] = ()
    sought: Request | None = None


@dataclass(slots=True)
class Attempts:
    """Those of one cycle, at a time `now`, beside the `asides` of those who came before."""

    state: State
    now: datetime
    asides: Asides
    searches: int = 0
    # In a cycle places only become fewer, so what was not found once is not looked for again.
    _nowhere: set[tuple[Demand, int | None, datetime | None]] = field(default_factory=set)
    _no_victims: set[tuple[Demand, int | None, int, bool, str | None]] = field(default_factory=set)
    _possible: dict[Demand, bool] = field(default_factory=dict)
    _ends: list[ExpectedEnd] | None = None
    _leaving: list[Held] | None = None
    _looked_ahead: int = 0
    _alone: bool = False  # what is kept for the request itself is lifted: where it finds a place, others do not

    def of(self, request: Request, *, limits: bool = True) -> Found | Waits:
        """With `limits`, also what its customer may have stands against it."""
        attempt = self._within_limits if limits else self._of
        if not self.asides.has(request):
            return attempt(request)
        with self.asides.without(request):
            self._alone = True
            try:
                return attempt(request)
            finally:
                self._alone = False

    def evicted(self) -> None:
        """Something has been told to leave: what was known of ends is no longer so."""
        self._ends = self._leaving = None

    def _within_limits(self, request: Request) -> Found | Waits:
        allowed = self._allowed(request)
        if isinstance(allowed, Blocked) and self._lends(request):
            with self.asides.lent(self._ends_at(request)):
                allowed = self._allowed(request)
        if isinstance(allowed, Blocked):
            return Waits(allowed)
        found = self._of(allowed)
        if isinstance(found, Waits) and allowed is not request:
            kept = found.kept and replace(found.kept, request=request)
            return replace(found, kept=kept, sought=allowed)
        return found

    def _allowed(self, request: Request) -> Request | Blocked:
        comes_first = request.reservation_id is not None or (self._alone and self._is_cleared(request))
        kept = None if comes_first else self.asides.limits
        return within_limits(self.state, request, kept=kept, now=self.now, until=self._retry)

    def _of(self, request: Request) -> Found | Waits:
        if request.reservation_id is not None:
            inside = booked.place_inside(self.state, request, self.asides, self.now)
            return Waits(inside) if isinstance(inside, Blocked) else inside
        found = self._cleared_place(request) or self._find(request)
        if found is not None:
            return found
        return self._being_cleared(request) or self._wait(request)

    def _wait(self, request: Request) -> Waits:
        """For what ends by itself in a moment; else for who gives way; else for whatever ends."""
        epoch = self.state.epoch(request)
        if not self._fits_group(request):
            return self._preempt(request) or Waits(verdicts.group_is_full(self.state, request, epoch, self._retry))
        waits = self._look_ahead(request, Blocked(Code.NO_CAPACITY, "", epoch, until=self._retry))
        grace = timedelta(seconds=self.state.settings.grace_s)
        if waits.kept is not None and waits.kept.certain and waits.kept.since <= self.now + grace:
            return waits
        preempts = self._preempt(request)
        if preempts is None or preempts.kept is not None:
            return preempts or waits
        return replace(preempts, kept=waits.kept)  # it is patient, but keeps what it would have to fall back on

    def _fits_group(self, request: Request) -> bool:
        milli, preemptible = request.demand.gpu_milli, request.preemptible
        beside_kept = not (self._alone and self._is_cleared(request))  # nobody had anything kept before it had
        return self.state.capacity.fits(request.group, milli, preemptible=preemptible, beside_kept=beside_kept)

    def _is_cleared(self, request: Request) -> bool:
        kept = self.state.kept.get(request.allocation_id)
        return kept is not None and bool(kept.awaits)

    def _cleared_place(self, request: Request) -> Found | None:
        """What others have left for it, as soon as it is free: nothing that is kept for anybody stands against that."""
        kept = self.state.kept.get(request.allocation_id)
        if not self._alone or kept is None or not kept.awaits or not self._fits_group(request):
            return None
        with self.asides.cleared():
            return kept.parts if is_free(self.state.cluster, request, kept.parts) else None

    def _find(self, request: Request) -> Found | None:
        """A place beside what is kept for others; or in it, for what is sure to have ended by then."""
        fits = self._fits_group(request)
        parts = self._search(request, None) if fits else None
        if parts is not None or not self._lends(request):
            return parts
        ends_at = self._ends_at(request)
        with self.asides.lent(ends_at):
            return self._search(request, ends_at) if fits or self._fits_group(request) else None

    def _lends(self, request: Request) -> bool:
        return request.limit_s is not None and self.asides.lends(self._ends_at(request))

    def _ends_at(self, request: Request) -> datetime:
        return self.now + timedelta(seconds=(request.limit_s or 0) + self.state.settings.grace_s)

    def _search(self, request: Request, ends_at: datetime | None) -> Found | None:
        key = request.demand, _whose(request), ends_at
        if key in self._nowhere and not self._alone:
            return None
        self.searches += 1
        parts = self.state.cluster.find(request.demand, request.customer_id)
        if parts is None and not self._alone:
            self._nowhere.add(key)
        return parts

    def _being_cleared(self, request: Request) -> Waits | None:
        """What was evicted for it is still leaving its place."""
        kept = self.state.kept.get(request.allocation_id)
        if kept is None or not kept.awaits or not self._takes_work(kept.parts):
            return None
        leaving = {held.request.allocation_id for held in self._leaving_soon()}
        if leaving.isdisjoint(kept.awaits):
            return None
        return Waits(verdicts.preempting(kept, self.state.epoch(request), self.now, self._retry), kept)

    def _takes_work(self, parts: Iterable[Part]) -> bool:
        hosts = [self.state.cluster.host(part.host_id) for part in parts]
        return all(host is not None and host.schedulable for host in hosts)

    def _preempt(self, request: Request) -> Waits | None:
        state = self.state
        key = request.demand, _whose(request), request.priority, request.preemptible, request.group
        if key in self._no_victims and not self._alone:
            return None
        preemption = Preemption(state.cluster, state.capacity, state.holdings, self._leaving_soon(), self.now)
        if not preemption.may_find(request):
            self._no_victims.add(key)
            return None
        patient_until = request.queued_at + timedelta(seconds=state.settings.patience_s)
        if self.now < patient_until:
            return Waits(verdicts.patient(state.epoch(request), patient_until))
        self.searches += SEARCHES_OF_A_PREEMPTION
        sacrifice = preemption.search(request)
        if sacrifice is None:
            if not self._alone:
                self._no_victims.add(key)
            return None
        kept = self._cleared(request, sacrifice)
        return Waits(verdicts.preempting(kept, state.epoch(request), self.now, self._retry), kept, sacrifice.victims)

    def _cleared(self, request: Request, sacrifice: Sacrifice) -> Kept:
        """The place as it is kept until those who are in it, or have the quota, have left."""
        hosts, fits = {part.host_id for part in sacrifice.parts}, self._fits_group(request)
        victims = frozenset(victim.request.allocation_id for victim in sacrifice.victims)
        leaving = {
            held.request.allocation_id
            for held in self._leaving_soon()
            if not fits or any(part.host_id in hosts for part in held.parts)
        }
        ends = [end.at for end in self._expected_ends() if end.allocation_id in leaving]
        if victims:
            ends.append(self.now + timedelta(seconds=self.state.settings.grace_s))
        return Kept(request, sacrifice.parts, max(ends, default=self.now), True, victims, victims | leaving)

    def _look_ahead(self, request: Request, verdict: Blocked) -> Waits:
        """A place and a time to keep for it, if it is one of the first who wait for one."""
        settings = self.state.settings
        enough = self.asides.waiting >= settings.kept_places or self._looked_ahead >= 2 * settings.kept_places
        if enough or not self.is_possible(request.demand):
            return Waits(verdict)
        self._looked_ahead += 1
        lookahead = Lookahead(
            self.state.cluster, self.asides, self._expected_ends(), settings.releases, settings.grace_s
        )
        self.searches += SEARCHES_OF_A_LOOK_AHEAD
        start = lookahead.earliest_start(request, self.now)
        if start is None:
            return Waits(verdict)
        kept = self.state.kept.get(request.allocation_id)
        start = stay_or_move(self.state.cluster, self.state.holdings, kept, start, self._expected_ends())
        return Waits(verdicts.with_start(verdict, start), Kept(request, start.parts, start.at, start.certain))

    def is_possible(self, demand: Demand) -> bool:
        """Whether it would fit if nobody had anything."""
        if demand not in self._possible:
            self._possible[demand] = self.state.cluster.could_ever(demand, schedulable=True)
        return self._possible[demand]

    def _expected_ends(self) -> list[ExpectedEnd]:
        if self._ends is None:
            state = self.state
            self._ends = in_order(state.holdings, state.reservations, self.now, grace_s=state.settings.grace_s)
        return self._ends

    def _leaving_soon(self) -> list[Held]:
        """What is about to end, and is not overdue."""
        if self._leaving is None:
            settings = self.state.settings
            since = self.now - timedelta(seconds=settings.grace_s + settings.overdue_s)
            self._leaving = self.state.holdings.leaving(since=since)
        return self._leaving

    @property
    def _retry(self) -> datetime:
        """What may be evicted changes with time, as minimum runtimes pass."""
        return self.now + timedelta(seconds=self.state.settings.refresh_s)


def _whose(request: Request) -> int | None:
    """The customer, where it makes a difference."""
    demand = request.demand
    return request.customer_id if demand.shape.milli < MILLI_PER_GPU or demand.apart else None
