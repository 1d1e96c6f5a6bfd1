"""Random lives of tasks, in any order and with everything told twice, late or not at all.

No command runs twice at once, nothing is lost, and what has ended stays as it is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update

from api.allocations.tables import Allocation
from api.clock import to_ms, utc_now
from api.db import Database
from api.errors import ApiError
from api.machines.tables import Host
from api.settings import Settings
from api.tasks import settling
from api.tasks.graph import Condition
from api.tasks.tables import Task, TaskAttempt
from scheduler.host_protocol import AttemptOrder, AttemptPhase, LeaseEnd
from scheduler.ports import Ended, Eviction
from scheduler.states import TASK, AllocationState, AttemptState, EndReason, TaskState
from tests.db.environment_world import World
from tests.db.fleet import Fleet, releasing
from tests.db.task_world import TaskWorld

MAX_TASKS = 7
ENDS = (
    ("exited", 0),
    ("exited", 0),
    ("exited", 1),
    ("timed_out", None),
    ("out_of_memory", 137),
    ("image_missing", None),
)
REASONS = (EndReason.HOST_LOST, EndReason.EXPIRED, EndReason.UNPAID, EndReason.FAILED, EndReason.CANCELLED)
CONDITIONS = st.sampled_from(sorted(Condition))


@dataclass(frozen=True)
class Lease:
    task_id: int
    allocation: Allocation


class Lives(RuleBasedStateMachine):
    def __init__(self, first: World) -> None:
        super().__init__()
        self.first, self.database = first, first.fleet.database
        self.commands: dict[tuple[int, int], Lease] = {}  # what runs on the host, by allocation and generation
        self.begun = Counter[tuple[int, int]]()
        self.ended: dict[int, tuple[str, str, int]] = {}

    @initialize()
    def begin(self) -> None:
        """A customer and a host of its own for each life: what a broken one has left is out of the way."""
        for host in self.first.fleet.rows(Host):
            self.first.retire(host)
        name = f"life-{uuid4().hex[:8]}"
        world = World(self.first.fleet, self.first.settings, self.first.fleet.customer(name))
        self.world = TaskWorld(world, world.host(name))
        for number in range(3):
            self.world.one(f"t{number}", retry={"max": 1, "on": ["error", "preempted"], "backoff": "1h"})
        self.world.place()

    @rule(
        parents=st.dictionaries(st.integers(0, MAX_TASKS), CONDITIONS, max_size=2),
        retry=st.sampled_from(("error", "host_lost")),
        retries=st.integers(0, 2),
    )
    def submit(self, parents: dict[int, Condition], retry: str, retries: int) -> None:
        known = [task.name for task in self.tasks()]
        assume(len(known) < MAX_TASKS)
        depends = [
            {"task": f"t{key}", "condition": condition} for key, condition in parents.items() if key < len(known)
        ]
        options = {"retry": {"max": retries, "on": [retry, "preempted"], "backoff": "1h"}, "depends_on": depends}
        try:
            self.world.one(f"t{len(known)}", **options)
        except ApiError as error:
            assert error.code == "dependency_failed"

    @rule()
    def place(self) -> None:
        self.world.place()

    @rule(pick=st.integers(0, 20))
    def host_asks(self, pick: int) -> None:
        """Perhaps again, perhaps too late."""
        lease = self.pick(self.leases(AllocationState.ACTIVE, AllocationState.RELEASING), pick)
        self.ask(lease)

    @rule(pick=st.integers(0, 20), end=st.sampled_from(ENDS), noticed=st.booleans(), twice=st.booleans())
    def command_ends(self, pick: int, end: tuple[str, int | None], noticed: bool, twice: bool) -> None:
        lease = self.pick(list(self.commands.values()), pick)
        for _ in range(1 + twice):
            notice = "SIGTERM" if noticed else ""
            self.world.report(lease.allocation, end=end[0], exit_code=end[1], notice=notice)

    @rule(pick=st.integers(0, 20))
    def command_begins(self, pick: int) -> None:
        lease = self.pick(list(self.commands.values()), pick)
        self.world.report(lease.allocation, AttemptPhase.RUNNING)

    @rule(pick=st.integers(0, 20))
    def gives_way(self, pick: int) -> None:
        lease = self.pick(self.leases(AllocationState.ACTIVE), pick)
        eviction = Eviction(lease.allocation.id, lease.allocation.generation, None, "somebody else")
        self.world.fleet.lead().evict([eviction])

    @rule(pick=st.integers(0, 20), reason=st.sampled_from(REASONS))
    def its_allocation_ends(self, pick: int, reason: EndReason) -> None:
        lease = self.pick(self.leases(AllocationState.ACTIVE, AllocationState.QUEUED), pick)
        queued = lease.allocation.state == AllocationState.QUEUED
        self.world.request_end(lease.allocation, EndReason.CANCELLED if queued else reason)

    @rule(pick=st.integers(0, 20))
    def cancel(self, pick: int) -> None:
        tasks = self.tasks()
        assume(tasks)
        self.world.cancel(tasks[pick % len(tasks)])

    @precondition(lambda self: bool(self.leases(AllocationState.RELEASING)))
    @rule(pick=st.integers(0, 20))
    def released(self, pick: int) -> None:
        self.release(self.pick(self.leases(AllocationState.RELEASING), pick))

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule(count=st.integers(1, 2))
    def settle_and_die(self, count: int) -> None:
        """After so many tasks."""
        for batch in settling._batches(settling._due(self.database)[:count]):
            settling._settle_batch(self.database, batch)

    @rule()
    def the_pause_passes(self) -> None:
        due = update(Task).where(Task.due_at.is_not(None)).values(due_at=utc_now())
        self.database.transact(lambda session: session.execute(due))

    @invariant()
    def it_adds_up(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.database.session() as session:
            attempts = session.scalars(select(TaskAttempt).order_by(TaskAttempt.number)).all()
            held = select(Allocation.id).where(
                Allocation.released_at.is_(None), Allocation.customer_id == self.customer
            )
            live = session.scalars(held).all()
        tasks = self.tasks()
        of = {task.id: [attempt for attempt in attempts if attempt.task_id == task.id] for task in tasks}
        for task in tasks:
            assert [attempt.number for attempt in of[task.id]] == list(range(1, task.attempts + 1))
            going = [attempt for attempt in of[task.id] if attempt.state != AttemptState.ENDED]
            assert len(going) <= 1
            over = not TASK[TaskState(task.state)]
            assert bool(going) == (task.state in (TaskState.STARTING, TaskState.RUNNING, TaskState.STOPPING))
            if over:
                now = (task.state, task.detail, task.attempts)
                assert self.ended.setdefault(task.id, now) == now, "what has ended stays as it is"
        current = [task.allocation_id for task in tasks if task.ended_at is None and task.allocation_id is not None]
        assert set(live) <= set(current), "nothing holds or waits for devices that no open task knows of"
        assert max(self.begun.values(), default=0) <= 1
        running = Counter(lease.task_id for lease in self.commands.values())
        assert max(running.values(), default=0) <= 1, "never twice at once"

    def teardown(self) -> None:
        """In the end every task has an end, and one that fits its parents'."""
        if not hasattr(self, "world"):
            return
        for _ in range(40):
            self.the_pause_passes()
            self.world.settle()
            if all(task.ended_at is not None for task in self.tasks()):
                break
            self.world.place()
            for lease in self.leases(AllocationState.ACTIVE):
                self.ask(lease)
            for lease in self.commands.values():
                self.world.report(lease.allocation, end="exited", exit_code=0)
            for lease in self.leases(AllocationState.RELEASING):
                self.release(lease)
        self.it_adds_up()
        assert [task.name for task in self.tasks() if task.ended_at is None] == []
        assert self.commands == {}

    def ask(self, lease: Lease) -> None:
        answer = self.world.order(lease.allocation)
        key = lease.allocation.id, lease.allocation.generation
        if isinstance(answer, AttemptOrder) and key not in self.begun:  # a host begins a generation once
            self.begun[key] += 1
            self.commands[key] = lease

    def release(self, lease: Lease) -> None:
        """Its host has confirmed, or is lost: the command is gone."""
        self.commands.pop((lease.allocation.id, lease.allocation.generation), None)
        store = self.world.fleet.lead()
        end = LeaseEnd(to_ms(utc_now()), exit_code=0, last_window=None)
        found = [each for each in releasing(store) if each.allocation_id == lease.allocation.id]
        store.record([Ended(each.allocation_id, each.generation, (end,)) for each in found])

    def pick(self, among: Sequence[Lease], pick: int) -> Lease:
        assume(among)
        return among[pick % len(among)]

    @property
    def customer(self) -> int:
        return self.world.world.owner[0].id

    def tasks(self) -> Sequence[Task]:
        with self.database.session() as session:
            return session.scalars(select(Task).where(Task.customer_id == self.customer).order_by(Task.id)).all()

    def leases(self, *states: AllocationState) -> list[Lease]:
        query = select(Task.id, Allocation).join(Allocation, Allocation.id == Task.allocation_id)
        with self.database.session() as session:
            mine = query.where(Task.customer_id == self.customer, Allocation.state.in_(states))
            rows = session.execute(mine.order_by(Task.id)).all()
        return [Lease(row[0], row[1]) for row in rows]


def test_tasks_come_to_an_end_and_never_run_twice_at_once(database: Database, settings: Settings) -> None:
    first = World.make(Fleet(database), settings)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis leaves it untyped
        lambda: Lives(first), settings=_EXAMPLES
    )


_EXAMPLES = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False
)
