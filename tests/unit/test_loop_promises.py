"""The loop under faults with capacity groups and reservations: what is guaranteed stays so, and records replay."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import invariant, precondition, rule

from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.recording import Recorder, replay
from scheduler.simulated_database import SimulatedAllocation
from scheduler.states import EndReason
from scheduler.views import CapacityGroup, Part, Reservation
from tests.unit.simulated_world import GIB, World
from tests.unit.test_loop_faults import HOLDING, HOSTS, LoopUnderFaults
from tests.unit.test_recording import Kept, make

GROUPS = (
    CapacityGroup("red", "all", 1000),
    CapacityGroup("blue", "all", 2000, borrowing_limit=1000, lending_limit=1000),
)  # the other two devices are guaranteed to nobody


class RecordedWorld(World):
    """What each leader is told and decides is kept."""

    def __init__(self, *arguments: Any) -> None:  # Any: as World's
        self.kept = Kept()
        super().__init__(*arguments)

    def lead(self) -> None:
        super().lead()
        self.scheduler.recorder = Recorder(self.kept, asdict(EngineSettings()))


class LoopWithPromises(LoopUnderFaults):
    world: RecordedWorld

    def __init__(self) -> None:
        super().__init__()
        self.world = RecordedWorld(Engine, *HOSTS)
        customers = self.database.customers
        self.database, self.fabric = self.world.database, self.world.fabric
        for customer in customers.values():
            self.database.add_customer(customer)
        self.database.set_groups(GROUPS)
        self.booked_at: dict[int, datetime] = {}

    @rule(
        group=st.sampled_from(GROUPS),
        gpus=st.integers(0, 2),
        priority=st.sampled_from([0, 10]),
        preemptible=st.booleans(),
        count=st.integers(1, 3),
    )
    def submit_to_a_group(self, group: CapacityGroup, gpus: int, priority: int, preemptible: bool, count: int) -> None:
        for _ in range(count):
            self._submit(gpus=gpus, group=group.name, customer_id=2, priority=priority, preemptible=preemptible)
        self.work()

    @rule(
        host_id=st.integers(1, 2),
        in_s=st.sampled_from([15, 45]),
        for_s=st.sampled_from([45, 90]),
        used=st.booleans(),
    )
    def reserve(self, host_id: int, in_s: int, for_s: int, used: bool) -> None:
        """The host's first two devices, if nobody is there who need not leave, and none is reserved from now on."""
        now, devices = self.world.now, frozenset((10 * host_id, 10 * host_id + 1))
        held = [a for a in self._held() if devices & _devices(a.parts)]
        ahead = [each for each in self.database.reservations if each.ends_at > now]
        if all(a.request.preemptible for a in held) and not any(devices & _devices(each.parts) for each in ahead):
            number = len(self.booked_at) + 1
            starts_at = now + timedelta(seconds=in_s)
            part = Part(host_id, tuple((gpu_id, 1000) for gpu_id in sorted(devices)))
            ends_at = starts_at + timedelta(seconds=for_s)
            made = Reservation(number, 2, starts_at, ends_at, (part,), 2000, 2 * GIB)
            self.database.set_reservations([*self.database.reservations, made])
            self.booked_at[number] = now
            if used:
                self._use(made, gpus=1, preemptible=True, until_it_begins=True)

    @precondition(lambda self: self._next_reservation())
    @rule(gpus=st.integers(1, 2), preemptible=st.booleans(), until_it_begins=st.booleans())
    def use_a_reservation(self, gpus: int, preemptible: bool, until_it_begins: bool) -> None:
        reservation = self._next_reservation()
        assert reservation is not None
        self._use(reservation, gpus=gpus, preemptible=preemptible, until_it_begins=until_it_begins)

    @invariant()
    def groups_stay_within_what_is_lent(self) -> None:
        used = {
            group.name: sum(a.request.demand.gpu_milli for a in self._held() if a.request.group == group.name)
            for group in GROUPS
        }
        borrowed = 0
        for group in GROUPS:
            own = group.nominal - _lent(group)
            borrowed += max(0, used[group.name] - own)
            assert group.borrowing_limit is None or used[group.name] <= group.nominal + group.borrowing_limit
        assert borrowed <= sum(map(_lent, GROUPS)), "what is guaranteed to one is used by another"

    @invariant()
    def what_is_reserved_is_for_those_who_name_it(self) -> None:
        for reservation in self.database.reservations:
            devices = _devices(reservation.parts)
            for allocation in self._held():
                assert allocation.placed_at is not None
                if allocation.request.reservation_id == reservation.reservation_id:
                    assert _devices(allocation.parts) <= devices
                    assert reservation.starts_at <= allocation.placed_at < reservation.ends_at
                elif devices & _devices(allocation.parts) and self.world.now < reservation.ends_at:
                    assert allocation.placed_at <= self.booked_at[reservation.reservation_id], "it could be in the way"

    @invariant()
    def what_has_begun_in_a_reservation_is_not_displaced(self) -> None:
        for allocation in self.database.allocations.values():
            assert allocation.request.reservation_id is None or allocation.end_reason is not EndReason.PREEMPTED

    def teardown(self) -> None:
        self.database.set_reservations(())
        for number, allocation in self.database.allocations.items():
            if allocation.request.reservation_id is not None:
                self.database.request_end(number, EndReason.CANCELLED)
        super().teardown()
        for recording in self.world.kept.recordings:
            assert replay(recording, make).difference is None

    def _use(self, reservation: Reservation, *, gpus: int, preemptible: bool, until_it_begins: bool) -> None:
        self._submit(gpus=gpus, reservation_id=reservation.reservation_id, customer_id=2, preemptible=preemptible)
        self.work()
        if until_it_begins:
            self.world.pass_time(max(0.0, (reservation.starts_at - self.world.now).total_seconds()))
            self.work()
            self.work()

    def _submit(self, **options: Any) -> None:  # Any: see `request`
        self.world.submit(len(self.database.allocations) + 1, **options)

    def _next_reservation(self) -> Reservation | None:
        """Or the one that has begun."""
        ahead = (each for each in self.database.reservations if each.ends_at > self.world.now)
        return min(ahead, key=lambda each: each.starts_at, default=None)

    def _held(self) -> list[SimulatedAllocation]:
        return [a for a in self.database.allocations.values() if a.state in HOLDING]


def _devices(parts: tuple[Part, ...]) -> frozenset[int]:
    return frozenset(gpu_id for part in parts for gpu_id, _ in part.devices)


def _lent(group: CapacityGroup) -> int:
    return group.nominal if group.lending_limit is None else min(group.lending_limit, group.nominal)


TestLoopWithPromises = LoopWithPromises.TestCase
TestLoopWithPromises.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
