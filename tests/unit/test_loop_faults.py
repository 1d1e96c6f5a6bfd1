"""The loop under faults: whatever fails, crashes or is cut off, no device has two owners and every request ends."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.loop import Scheduler
from scheduler.policy import FirstComeFirstServed
from scheduler.ports import FreeDevice, QueuedRequest
from scheduler.simulated_fabric import Fault, Machine, MemoryFabric, SimulatedCrashError
from scheduler.simulated_store import MemoryStore, SimulatedHost
from scheduler.states import AllocationState, DeviceStatus, EndReason

GIB = 2**30
MODELS = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3")


class LoopUnderFaults(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.store = MemoryStore(lambda: self.now, quotas={1: 3})
        self.fabric = MemoryFabric()
        self.effects: list[Callable[[], None]] = []
        self.start_controller()

    @initialize()
    def build(self) -> None:
        for host_id, gpus in ((1, 2), (2, 3)):
            devices = tuple(
                FreeDevice(10 * host_id + i, f"GPU-{host_id}-{i}", MODELS[i == 2], 80 * GIB, 1000) for i in range(gpus)
            )
            self.store.hosts[host_id] = SimulatedHost(host_id, f"h{host_id}", 8000, 64 * GIB, devices)
            self.fabric.machines[f"h{host_id}"] = Machine(8000, 64 * GIB)

    def start_controller(self) -> None:
        self.effects.clear()
        self.scheduler = Scheduler(
            self.store, self.fabric, policy=FirstComeFirstServed(), clock=lambda: self.now, spawn=self.effects.append
        )

    @rule(
        customer_id=st.integers(1, 2),
        gpus=st.integers(1, 2),
        model=st.sampled_from([None, "A100", "H100"]),
        cpu=st.sampled_from([1000, 1000, 4000]),
        host_id=st.sampled_from([None, None, None, 1, 2]),
        then_work=st.booleans(),
    )
    def submit(
        self, customer_id: int, gpus: int, model: str | None, cpu: int, host_id: int | None, then_work: bool
    ) -> None:
        number = len(self.store.allocations) + 1
        if model == "H100":
            gpus, host_id = 1, None if host_id == 1 else host_id
        self.store.submit(
            QueuedRequest(number, f"a{number}", customer_id, 0, self.now, gpus, model, cpu, GIB, host_id, None)
        )
        if then_work:
            self.work()

    @rule()
    def cycle(self) -> None:
        self.scheduler.cycle()

    @rule(faults=st.lists(st.sampled_from([*[Fault.NONE] * 3, *Fault]), min_size=1, max_size=3))
    def faults_lie_ahead(self, faults: list[Fault]) -> None:
        self.fabric.faults.extend(faults)

    @rule()
    def work(self) -> None:
        """A cycle as it mostly goes: what it starts is done at once."""
        self.scheduler.cycle()
        for effect in list(self.effects):
            if effect in self.effects:
                self.run(effect)

    @precondition(lambda self: self.effects)
    @rule(data=st.data())
    def run_effect(self, data: st.DataObject) -> None:
        self.run(data.draw(st.sampled_from(self.effects)))

    def run(self, effect: Callable[[], None]) -> None:
        self.effects.remove(effect)
        try:
            effect()
        except SimulatedCrashError:
            self.start_controller()

    @rule()
    def crash(self) -> None:
        self.start_controller()

    @rule(seconds=st.sampled_from([1, 2, 20, 40]))
    def pass_time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.fabric.now_ms += 1000 * seconds

    @rule()
    def hub_starts_containers(self) -> None:
        for allocation in self.store.allocations.values():
            if allocation.state is AllocationState.ACTIVE:
                host = self.store.hosts[allocation.host_id or 0]
                if self.fabric.machines[host.uid].reachable:
                    self.fabric.start_container(host.uid, allocation.request.allocation_uid, allocation.generation)

    @precondition(lambda self: self.store.allocations)
    @rule(data=st.data(), then_work=st.booleans())
    def user_ends_one(self, data: st.DataObject, then_work: bool) -> None:
        live = [n for n, a in self.store.allocations.items() if a.state is not AllocationState.RELEASED]
        if live:
            self.store.request_end(data.draw(st.sampled_from(live)), EndReason.CANCELLED)
        if then_work:
            self.work()

    @rule(host_id=st.integers(1, 2), change=st.sampled_from(["cut_off", "lose", "come_back", "come_back"]))
    def host_changes(self, host_id: int, change: str) -> None:
        getattr(self, change)(host_id)

    def cut_off(self, host_id: int) -> None:
        host = self.store.hosts[host_id]
        if host.status is DeviceStatus.ONLINE:
            host.status = DeviceStatus.UNREACHABLE
            self.fabric.machines[host.uid].reachable = False

    def lose(self, host_id: int) -> None:
        host = self.store.hosts[host_id]
        if host.status is DeviceStatus.UNREACHABLE:
            self.fabric.run_out(host.uid)
            host.status = DeviceStatus.LOST
            for number, allocation in self.store.allocations.items():
                if allocation.host_id == host_id:
                    self.store.request_end(number, EndReason.HOST_LOST)

    def come_back(self, host_id: int) -> None:
        host = self.store.hosts[host_id]
        host.status = DeviceStatus.ONLINE
        self.fabric.machines[host.uid].reachable = True
        self.heartbeat(host)

    def heartbeat(self, host: SimulatedHost) -> None:
        """Leases of another generation, or of what has ended, must end; active ones that are gone are host_lost."""
        machine = self.fabric.machines[host.uid]
        valid = {
            allocation.request.allocation_uid: allocation.generation
            for allocation in self.store.allocations.values()
            if allocation.host_id == host.host_id
            and allocation.state in (AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)
        }
        for uid, lease in list(machine.leases.items()):
            if valid.get(uid) != lease.generation:
                del machine.leases[uid]
                machine.running.discard(uid)

    @invariant()
    def one_owner(self) -> None:
        held = [gpu for a in self.store.allocations.values() for gpu in a.gpu_ids]
        assert len(held) == len(set(held))
        assert set(held) == set(self.store.owners)

    @invariant()
    def nothing_runs_on_devices_of_others(self) -> None:
        owners = {number: a.request.allocation_uid for number, a in self.store.allocations.items()}
        by_uuid = {d.uuid: d.gpu_id for host in self.store.hosts.values() for d in host.devices}
        for machine in self.fabric.machines.values():
            for uid in machine.running:
                for device in machine.leases[uid].devices:
                    assert owners[self.store.owners[by_uuid[device.uuid]]] == uid

    @invariant()
    def what_is_active_has_its_group_and_its_lease(self) -> None:
        for allocation in self.store.allocations.values():
            if allocation.state is AllocationState.ACTIVE:
                assert allocation.group_name in self.fabric.groups
                machine = self.fabric.machines[self.store.hosts[allocation.host_id or 0].uid]
                assert machine.leases[allocation.request.allocation_uid].generation == allocation.generation

    @invariant()
    def quota_is_kept(self) -> None:
        assert sum(len(a.gpu_ids) for a in self.store.allocations.values() if a.request.customer_id == 1) <= 3

    def teardown(self) -> None:
        """Once the faults stop, everything that is placed or ending comes to rest, and what fits runs."""
        self.fabric.faults.clear()
        for host_id in self.store.hosts:
            self.come_back(host_id)
        self.settle()
        assert not {AllocationState.PLACING, AllocationState.RELEASING} & self.states()
        for number in self.store.allocations:
            self.store.request_end(number, EndReason.COMPLETED)
            self.settle()
        assert self.states() <= {AllocationState.RELEASED}
        assert self.store.owners == {}
        self.pass_time(40)
        self.settle()
        assert self.fabric.groups == {}
        assert all(not machine.leases and not machine.running for machine in self.fabric.machines.values())
        super().teardown()

    def settle(self) -> None:
        for _ in range(5):
            self.pass_time(61)
            self.scheduler.cycle()
            while self.effects:
                self.effects.pop()()

    def states(self) -> set[AllocationState]:
        return {allocation.state for allocation in self.store.allocations.values()}


TestLoopUnderFaults = LoopUnderFaults.TestCase
TestLoopUnderFaults.settings = settings(max_examples=100, stateful_step_count=80, deadline=None)
