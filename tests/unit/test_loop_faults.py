"""The loop under faults: whatever fails, crashes or is cut off, no device has two owners and every request ends."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.engine.engine import Engine
from scheduler.ports import LostLeadershipError
from scheduler.quota import Limits
from scheduler.simulated_database import SimulatedAllocation
from scheduler.simulated_fabric import Fault, SimulatedCrashError
from scheduler.states import AllocationState, DeviceStatus, EndReason
from scheduler.views import CustomerView
from tests.unit.simulated_world import A100, H100, DatabaseError, World, host

HOSTS = (host(1, A100, A100, cpu_milli=8000), host(2, A100, A100, H100, cpu_milli=8000))
HOLDING = (AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)
QUOTA = 3  # of customer 1


class LoopUnderFaults(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(Engine, *HOSTS)
        self.database, self.fabric = self.world.database, self.world.fabric
        self.database.add_customer(CustomerView(1, limits=Limits(gpus=QUOTA)))

    @rule(
        customer_id=st.integers(1, 2),
        size=st.sampled_from([(1, 1000, 1), (1, 1000, 1), (2, 1000, 1), (1, 1000, 2), (1, 400, 1), (1, 700, 1)]),
        model=st.sampled_from([None, None, A100, H100]),
        cpu_milli=st.sampled_from([1000, 1000, 4000]),
        bound_host_id=st.sampled_from([None, None, None, 1, 2]),
        priority=st.sampled_from([0, 0, 10]),
        preemptible=st.booleans(),
        then_work=st.booleans(),
    )
    def submit(
        self,
        customer_id: int,
        size: tuple[int, int, int],
        model: str | None,
        cpu_milli: int,
        bound_host_id: int | None,
        priority: int,
        preemptible: bool,
        then_work: bool,
    ) -> None:
        gpus, milli, nodes = size
        if model == H100:
            gpus, nodes, bound_host_id = 1, 1, None  # there is only one, on host 2
        self.world.submit(
            len(self.database.allocations) + 1,
            customer_id=customer_id,
            gpus=gpus,
            milli=milli,
            nodes=nodes,
            cpu_milli=cpu_milli,
            models=() if model is None else (model,),
            bound_host_id=bound_host_id if nodes == 1 else None,
            priority=priority,
            preemptible=preemptible,
        )
        if then_work:
            self.work()

    @rule()
    def cycle(self) -> None:
        with suppress(DatabaseError):
            self.world.scheduler.cycle()

    @rule(faults=st.lists(st.sampled_from([*[Fault.NONE] * 3, Fault.FAILS, Fault.ANSWER_LOST]), min_size=1, max_size=6))
    def faults_of_the_database_lie_ahead(self, faults: list[Fault]) -> None:
        self.world.database_faults.extend(faults)

    @rule(faults=st.lists(st.sampled_from([*[Fault.NONE] * 3, *Fault]), min_size=1, max_size=3))
    def faults_lie_ahead(self, faults: list[Fault]) -> None:
        self.fabric.faults.extend(faults)

    @precondition(lambda self: not self.world.effects)
    @rule(failing=st.integers(0, 1), how=st.sampled_from([Fault.FAILS, Fault.ANSWER_LOST]))
    def one_host_of_a_gang_fails(self, failing: int, how: Fault) -> None:
        """Of the calls that place it, the first reserves its group, and the others are its hosts' grants."""
        self.fabric.faults.clear()
        self.world.submit(len(self.database.allocations) + 1, customer_id=2, nodes=2)
        self.cycle()
        self.fabric.faults.extend([Fault.NONE] * (1 + failing) + [how])
        self.work()

    @rule()
    def work(self) -> None:
        """Cycles as they mostly go: what they start is done at once, and recorded."""
        self.cycle()
        for effect in list(self.world.effects):
            if effect in self.world.effects:
                self.run(effect)
        self.cycle()

    @precondition(lambda self: self.world.effects)
    @rule(data=st.data())
    def run_effect(self, data: st.DataObject) -> None:
        self.run(data.draw(st.sampled_from(self.world.effects)))

    def run(self, effect: Callable[[], None]) -> None:
        self.world.effects.remove(effect)
        try:
            effect()
        except SimulatedCrashError:
            self.world.lead()

    @rule()
    def crash(self) -> None:
        self.world.lead()

    @rule()
    def another_leads_while_effects_run(self) -> None:
        """The threads of the leader before still do what they had begun; what it would record is refused."""
        yesterday, effects = self.world.scheduler, list(self.world.effects)
        self.world.lead()
        self.world.effects.extend(effects)
        self.world.database_faults.clear()
        try:
            yesterday.cycle()
        except LostLeadershipError:
            return
        raise AssertionError("two leaders at once")

    @rule(seconds=st.sampled_from([1, 2, 20, 40]))
    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule()
    def hub_starts_containers(self) -> None:
        for allocation in self.database.allocations.values():
            for machine in self.machines(allocation) if allocation.state is AllocationState.ACTIVE else ():
                if self.fabric.machines[machine].reachable:
                    self.fabric.start_container(machine, allocation.request.allocation_uid, allocation.generation)

    @precondition(lambda self: self.database.allocations)
    @rule(data=st.data(), then_work=st.booleans())
    def user_ends_one(self, data: st.DataObject, then_work: bool) -> None:
        live = [n for n, a in self.database.allocations.items() if a.state is not AllocationState.RELEASED]
        if live:
            self.database.request_end(data.draw(st.sampled_from(live)), EndReason.CANCELLED)
        if then_work:
            self.work()

    @rule(host_id=st.integers(1, 2), change=st.sampled_from(["cut_off", "lose", "come_back", "come_back"]))
    def host_changes(self, host_id: int, change: str) -> None:
        getattr(self, change)(host_id)

    def cut_off(self, host_id: int) -> None:
        if self.database.hosts[host_id].status is DeviceStatus.ONLINE:
            self.database.set_status(host_id, DeviceStatus.UNREACHABLE)
            self.fabric.machines[f"h{host_id}"].reachable = False

    def lose(self, host_id: int) -> None:
        if self.database.hosts[host_id].status is DeviceStatus.UNREACHABLE:
            self.fabric.run_out(f"h{host_id}")
            self.database.set_status(host_id, DeviceStatus.LOST)
            for number, allocation in self.database.allocations.items():
                if host_id in {part.host_id for part in allocation.parts}:
                    self.database.request_end(number, EndReason.HOST_LOST)

    def come_back(self, host_id: int) -> None:
        self.database.set_status(host_id, DeviceStatus.ONLINE)
        self.fabric.machines[f"h{host_id}"].reachable = True
        self.heartbeat(host_id)

    def heartbeat(self, host_id: int) -> None:
        """Leases of another generation, or of what has ended, must end."""
        machine = self.fabric.machines[f"h{host_id}"]
        valid = {
            allocation.request.allocation_uid: allocation.generation
            for allocation in self.database.allocations.values()
            if host_id in {part.host_id for part in allocation.parts}
        }
        for uid, lease in list(machine.leases.items()):
            if valid.get(uid) != lease.generation:
                del machine.leases[uid]
                machine.running.discard(uid)

    def machines(self, allocation: SimulatedAllocation) -> list[str]:
        return [f"h{part.host_id}" for part in allocation.parts]

    @invariant()
    def no_device_is_given_out_twice(self) -> None:
        given, customers = Counter[int](), set()
        for allocation in self.database.allocations.values():
            for gpu_id, milli in (device for part in allocation.parts for device in part.devices):
                given[gpu_id] += milli
                customers.add((gpu_id, allocation.request.customer_id))
        assert max(given.values(), default=0) <= 1000
        assert len(customers) == len(given)
        assert given == Counter({gpu_id: sum(by.values()) for gpu_id, by in self.database.owners.items() if by})

    @invariant()
    def only_what_is_placed_holds_anything_and_a_gang_all_of_it(self) -> None:
        for allocation in self.database.allocations.values():
            nodes = allocation.request.demand.nodes if allocation.state in HOLDING else 0
            assert len({part.host_id for part in allocation.parts}) == len(allocation.parts) == nodes

    @invariant()
    def nothing_runs_on_devices_of_others(self) -> None:
        numbers = {a.request.allocation_uid: number for number, a in self.database.allocations.items()}
        by_uuid = {uuid: gpu_id for gpu_id, (_, uuid) in self.database.devices.items()}
        for machine in self.fabric.machines.values():
            for uid in machine.running:
                for device in machine.leases[uid].devices:
                    assert numbers[uid] in self.database.owners[by_uuid[device.uuid]]

    @invariant()
    def what_is_active_has_its_group_and_all_its_leases(self) -> None:
        for allocation in self.database.allocations.values():
            if allocation.state is AllocationState.ACTIVE:
                assert allocation.group_name in self.fabric.groups
                for machine in self.machines(allocation):
                    lease = self.fabric.machines[machine].leases[allocation.request.allocation_uid]
                    assert lease.generation == allocation.generation

    @invariant()
    def quota_is_kept(self) -> None:
        allocations = [a for a in self.database.allocations.values() if a.request.customer_id == 1 and a.parts]
        assert sum(a.request.demand.nodes * a.request.demand.shape.gpus for a in allocations) <= QUOTA

    def teardown(self) -> None:
        """Once the faults stop, everything that is placed or ending comes to rest, and what fits runs."""
        self.fabric.faults.clear()
        self.world.database_faults.clear()
        for host_id in self.database.hosts:
            self.come_back(host_id)
        self.settle()
        assert not {AllocationState.PLACING, AllocationState.RELEASING} & self.states()
        while not self.states() <= {AllocationState.RELEASED}:
            running = [n for n, a in self.database.allocations.items() if a.state is AllocationState.ACTIVE]
            assert running, "whatever waits fits once the others have ended"
            for number in running:
                self.database.request_end(number, EndReason.COMPLETED)
            self.settle()
        assert not any(self.database.owners.values())
        self.pass_time(40)
        self.settle()
        assert self.fabric.groups == {} == self.database.placement_groups
        assert all(not machine.leases and not machine.running for machine in self.fabric.machines.values())

    def settle(self) -> None:
        for _ in range(4):
            self.pass_time(61)
            self.world.work()

    def states(self) -> set[AllocationState]:
        return {allocation.state for allocation in self.database.allocations.values()}


TestLoopUnderFaults = LoopUnderFaults.TestCase
TestLoopUnderFaults.settings = settings(max_examples=100, stateful_step_count=80, deadline=None)
