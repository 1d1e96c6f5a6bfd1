"""The engine in virtual time, in a world where everything happens, checked by brute force after every cycle."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from scheduler.quota import Limits
from scheduler.states import AllocationState
from scheduler.views import CapacityGroup, CustomerView, HostView, Part, Reservation
from tests.unit.checked_world import CheckedWorld
from tests.unit.engine_checks import check_figures, check_reason
from tests.unit.engine_world import GRACE_S, SETTINGS
from tests.unit.simulated_world import A100, GIB, H100, host

GRACE = timedelta(seconds=GRACE_S)
LONG_S = 40  # the longest limit
AGEING_S = 30  # raises the priority by 100
QUIET_ROUNDS, MOST_ROUNDS = 12, 300


def racked(number: int, rack: str, *devices: str) -> HostView:
    return replace(host(number, *devices, cpu_milli=16_000), labels={"rack": rack})


HOSTS = (racked(1, "r1", *[A100] * 4), racked(2, "r1", *[A100] * 4), racked(3, "r2", H100, H100))
GROUPS = (
    (),
    (CapacityGroup("red", "all", 3000), CapacityGroup("blue", "all", 2000, borrowing_limit=1000)),
    (CapacityGroup("red", "all", 4000, lending_limit=1000), CapacityGroup("blue", "all", 1000)),
    (CapacityGroup("red", None, 4000), CapacityGroup("blue", None, 3000, preempt_lower_priority=False)),
)
SIZES = (
    {"gpus": 0},
    {"gpus": 1},
    {"gpus": 2},
    {"gpus": 4},
    {"milli": 300},
    {"milli": 600},
    {"nodes": 2},
    {"gpus": 2, "nodes": 2},
)
requests = st.fixed_dictionaries(
    {
        "size": st.sampled_from(SIZES),
        "customer_id": st.integers(1, 3),
        "workspace_id": st.integers(1, 2),
        "user_id": st.integers(1, 2),
        "task": st.booleans(),
        "priority": st.sampled_from([0, 100, 200]),
        "preemptible": st.booleans(),
        "min_runtime_s": st.sampled_from([0, 0, 15]),
        "limit_s": st.sampled_from([None, 10, LONG_S]),
        "group": st.sampled_from([None, "red", "blue"]),
        "models": st.sampled_from([(), (), ("A100",)]),
        "cpu_milli": st.sampled_from([1000, 1000, 1000, 9000]),
        "apart": st.sampled_from([None, None, None, "set"]),
        "bound_host_id": st.sampled_from([None, None, None, None, 2]),
        "within": st.sampled_from([None, None, "rack"]),
    }
).map(lambda options: _sized(**options))  # some of them can't run anywhere


def _sized(size: dict[str, int], models: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Without GPUs no model is named. Workspaces and users are of one customer."""
    for name in ("workspace_id", "user_id"):
        options[name] += 10 * options["customer_id"]
    return {**size, "models": models if size.get("gpus", 1) else (), **options}


knobs = st.builds(
    lambda looks, **changed: replace(SETTINGS, ageing_step_s=AGEING_S, **looks, **changed),
    looks=st.sampled_from(
        [{"refresh_s": 0.0, "searches": 10**6}, {"refresh_s": 10.0}, {"refresh_s": 10.0, "searches": 2}]
    ),  # who looks at everything anew each time can't be bounded
    kept_places=st.sampled_from([1, 16]),
    patience_s=st.sampled_from([0.0, 5.0]),
)


limits = st.builds(
    Limits,
    gpus=st.sampled_from([None, None, 2, 5]),
    tasks=st.sampled_from([None, None, 1]),
    gpu_models=st.sampled_from([{}, {}, {"H100": 0}, {"A100": 2, "H100": 1}]),
    lease_s=st.sampled_from([None, None, None, 10]),
)


class EngineMachine(RuleBasedStateMachine):
    """After every step the engine decides, and the world checks."""

    @initialize(knobs=knobs, groups=st.sampled_from(GROUPS))
    def begin(self, knobs: Any, groups: Any) -> None:
        self.world = CheckedWorld({view.host_id: view for view in HOSTS}, settings=knobs, groups=groups)

    @rule(options=st.lists(requests, min_size=1, max_size=4))
    def ask(self, options: list[dict[str, Any]]) -> None:
        for each in options:
            self.world.ask(**each)
        self._cycle()

    @rule(seconds=st.sampled_from([1, 6, 10, 31]))
    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(seconds)
        self._cycle()

    @precondition(lambda self: self.world.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.world.held)))
        if self.world.held[number].state is AllocationState.ACTIVE:
            self.world.leave(number, grace_s=data.draw(st.sampled_from([0, GRACE_S])))
        self._cycle()

    @precondition(lambda self: self.world.queued)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.world.cancel(data.draw(st.sampled_from(sorted(self.world.queued))))
        self._cycle()

    @rule(number=st.sampled_from([1, 3]))
    def lose_or_find_host(self, number: int) -> None:
        there = self.world
        if number in there.unreachable:
            there.unreachable.discard(number)
            there.set_host(HOSTS[number - 1])
        else:
            there.unreachable.add(number)
            there.set_host(replace(HOSTS[number - 1], why_not="it is unreachable", reachable=False))
        self._cycle()

    @precondition(lambda self: self.world.unreachable)
    @rule()
    def give_up_hosts(self) -> None:
        """They are lost: what they ran has ended."""
        there = self.world
        for number, held in list(there.held.items()):
            if any(part.host_id in there.unreachable for part in held.parts):
                there.gone(number)
        for host_id in there.unreachable & there.hosts.keys():
            there.drop_host(host_id)
        self._cycle()

    @rule(
        customer_id=st.integers(1, 3),
        limits=limits,
        workspaces=st.dictionaries(st.integers(1, 2), limits, max_size=1),
        users=st.dictionaries(st.integers(1, 2), limits, max_size=2),
    )
    def change_quota(self, customer_id: int, limits: Limits, workspaces: Any, users: Any) -> None:
        below = [{10 * customer_id + number: each for number, each in of.items()} for of in (workspaces, users)]
        self.world.set_customer(CustomerView(customer_id, limits=limits, workspaces=below[0], users=below[1]))
        self._cycle()

    @rule(groups=st.sampled_from(GROUPS))
    def change_groups(self, groups: tuple[CapacityGroup, ...]) -> None:
        self.world.set_groups(*groups)
        self._cycle()

    @rule(
        in_s=st.sampled_from([12, 40, 90]),
        for_s=st.sampled_from([20, 60]),
        host_id=st.integers(1, 2),
        first=st.booleans(),
    )
    def reserve(self, in_s: int, for_s: int, host_id: int, first: bool) -> None:
        """Two devices, if nobody is sure to be there at that time, for a request that asks for them."""
        there = self.world
        starts_at = there.now + timedelta(seconds=in_s)
        devices = [10 * host_id + index for index in ((0, 1) if first else (2, 3))]
        part = Part(host_id, tuple((gpu_id, 1000) for gpu_id in devices))
        number = len(there.reservations) + 1
        made = Reservation(number, 1, starts_at, starts_at + timedelta(seconds=for_s), (part,), 2000, GIB)
        if all(self._leaves_before(held, made) for held in there.held.values()) and not any(
            other.parts == made.parts
            and other.starts_at < made.ends_at + GRACE
            and made.starts_at < other.ends_at + GRACE
            for other in there.reservations
        ):
            there.reserve(*there.reservations, made)
            there.ask(customer_id=1, gpus=2, reservation_id=number)
        self._cycle()

    @rule()
    def lead_anew(self) -> None:
        self.world.tell_all()
        self._cycle()

    @rule()
    def settle(self) -> None:
        """While nothing new comes, everything comes to rest."""
        quiet, evicted = 0, 0
        for _ in range(MOST_ROUNDS):
            before = self.world.held.keys() | self.world.leaving.keys()
            self.world.pass_time(GRACE_S)
            evicted += self._cycle()
            quiet = quiet + 1 if before == self.world.held.keys() | self.world.leaving.keys() else 0
            if quiet == QUIET_ROUNDS:
                return
        raise AssertionError(f"{evicted} were evicted, and there is no end to it")

    def _leaves_before(self, held: Any, made: Reservation) -> bool:
        devices = {gpu_id for part in held.parts for gpu_id, _ in part.devices}
        if not devices & {gpu_id for part in made.parts for gpu_id, _ in part.devices}:
            return True
        limit_s = held.request.limit_s
        ends = limit_s is not None and held.since + timedelta(seconds=limit_s) + GRACE <= made.starts_at
        return held.request.preemptible or ends

    def _cycle(self) -> int:
        there = self.world
        evicted = there.cycle()
        there.check_favours()
        assert there.queued.keys() <= there.reasons.keys(), "everybody who waits knows why"
        if not there.settings.refresh_s and not there.groups:
            self._check_places()
        picture = there.picture()
        for number, request in there.queued.items():
            check_reason(picture, request, there.reasons[number])
            assert picture.is_limited(request) or not picture.could_start_inside(request), "a reservation is honoured"
            if not there.settings.refresh_s:
                check_figures(picture, request, there.reasons[number])
        return evicted

    def _check_places(self) -> None:
        """Among those who could have all devices, the places in the queue follow the priorities, raised by waiting."""
        there, places = self.world, []
        for number, request in there.queued.items():
            waited_s = (there.now - request.queued_at).total_seconds()
            if request.demand.shape.gpus and not request.demand.models:
                places.append((there.reasons[number].position, request.priority + 100 * int(waited_s // AGEING_S)))
        places.sort()
        assert len({position for position, _ in places}) == len(places), places
        assert [aged for _, aged in places] == sorted((aged for _, aged in places), reverse=True), places


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
