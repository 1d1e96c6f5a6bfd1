"""Tasks on a fleet, driven by hand: the scheduler's decisions, and what hosts ask and report."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from api.allocations.tables import Allocation
from api.clock import to_ms, utc_now
from api.db import Database
from api.machines.tables import Host
from api.settings import Settings
from api.tasks import orders, service
from api.tasks.settling import settle
from api.tasks.spec import TaskSpec
from api.tasks.submission import Submission, Wanted
from api.tasks.tables import Task, TaskAttempt
from scheduler.host_protocol import AttemptOrder, AttemptPhase, AttemptReport, HeartbeatReply
from scheduler.ports import Eviction
from scheduler.states import AllocationState, EndReason, TaskState
from tests.db.environment_world import Owner, World
from tests.db.fleet import Fleet

MINUTE_MS = 60_000


def document(name: str = "train", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "base", "resources": {"gpu_model": "A100"}, "command": "true", **fields}


@dataclass(slots=True)
class TaskWorld:
    """`host` is where everything runs."""

    world: World
    host: Host

    @classmethod
    def make(cls, database: Database, settings: Settings, *, owner: Owner | None = None) -> "TaskWorld":
        world = World.make(Fleet(database), settings, owner=owner)
        return cls(world, world.host())

    @property
    def fleet(self) -> Fleet:
        return self.world.fleet

    @property
    def database(self) -> Database:
        return self.world.fleet.database

    def submit(self, *documents: dict[str, Any], **fields: Any) -> list[Task]:
        """`fields` are those of `Wanted`, for each of them."""
        tasks = [Wanted(TaskSpec.model_validate(each), **fields) for each in documents]
        return self.database.transact(lambda s: service.submit(s, self.world.caller, Submission(tasks)))

    def one(self, name: str = "train", **fields: Any) -> Task:
        return self.submit(document(name, **fields))[0]

    def cancel(self, task: Task) -> Task:
        return self.database.transact(lambda session: service.cancel(session, self.world.caller, task.uid))

    def retry(self, task: Task) -> Task:
        return self.database.transact(lambda session: service.retry(session, self.world.caller, task.uid))

    def place(self) -> None:
        """What the controller does with all that waits, as far as `active`."""
        self.world.place()

    def order(self, allocation: Allocation, *, generation: int | None = None, host: Host | None = None) -> Any:
        """What the host is told; it has the lease."""
        return self.database.transact(
            lambda session: orders.order(
                session,
                self.world.settings,
                host_id=(host or self.host).id,
                allocation_uid=str(allocation.uid),
                generation=allocation.generation if generation is None else generation,
                actor="host:h1",
            )
        )

    def start(self, task: Task) -> Allocation:
        """Place it, and have its host ask what to run."""
        self.place()
        allocation = self.allocation(task)
        assert isinstance(self.order(allocation), AttemptOrder)
        return allocation

    def run(self, task: Task) -> Allocation:
        """With its command begun."""
        allocation = self.start(task)
        self.report(allocation, AttemptPhase.RUNNING)
        return allocation

    def report(
        self,
        allocation: Allocation,
        phase: AttemptPhase = AttemptPhase.ENDED,
        *,
        now: datetime | None = None,
        host: Host | None = None,
        **said: Any,
    ) -> HeartbeatReply:
        """A heartbeat that says how the attempt is. `now` is the server's."""
        known: dict[str, Any] = {"generation": allocation.generation}
        if phase in (AttemptPhase.RUNNING, AttemptPhase.ENDED):
            known["running_at_ms"] = to_ms(utc_now())
        if phase is AttemptPhase.ENDED:
            known["ended_at_ms"] = to_ms(utc_now())
        attempt = AttemptReport(str(allocation.uid), phase=phase, **{**known, **said})
        return self.world.beat(host or self.host, allocation, attempts=(attempt,), now=now)

    def end(self, allocation: Allocation, end: str = "exited", *, exit_code: int | None = 0, **said: Any) -> None:
        """It ends by itself, its host confirms that nothing of it is left, and the controller hears of it."""
        self.report(allocation, end=end, exit_code=exit_code, **said)
        self.finish()

    def finish(self) -> None:
        """What the controller does with all that ends, and what follows from that."""
        self.settle()
        self.world.release()
        self.settle()

    def settle(self) -> None:
        """Until nothing is due: one call takes a bounded time only."""
        for _ in range(100):
            if not settle(self.database):
                return
        raise AssertionError("what is due is not led on")

    def pass_backoff(self, task: Task) -> None:
        """The time until it is queued again."""
        now = update(Task).where(Task.id == task.id).values(due_at=utc_now())
        self.database.transact(lambda session: session.execute(now))
        self.settle()

    def evict(self, allocation: Allocation) -> None:
        store = self.fleet.lead()
        assert all(store.evict([Eviction(allocation.id, allocation.generation, None, "somebody else")]))

    def request_end(self, allocation: Allocation, end_reason: EndReason) -> None:
        self.fleet.end(allocation, end_reason)

    def task(self, task: Task) -> Task:
        with self.database.session() as session:
            return session.get_one(Task, task.id)

    def state(self, task: Task) -> TaskState:
        return TaskState(self.task(task).state)

    def allocation(self, task: Task) -> Allocation:
        with self.database.session() as session:
            query = select(Allocation).join(Task, Task.allocation_id == Allocation.id).where(Task.id == task.id)
            return session.scalars(query).one()

    def attempts(self, task: Task) -> Sequence[TaskAttempt]:
        with self.database.session() as session:
            query = select(TaskAttempt).where(TaskAttempt.task_id == task.id).order_by(TaskAttempt.number)
            return session.scalars(query).all()

    def allocation_states(self, task: Task) -> set[AllocationState]:
        """Of all that it ever had, by the names of their containers."""
        with self.database.session() as session:
            query = select(Allocation.state).where(Allocation.container_name.startswith(f"rg-task-{task.uid}"))
            return {AllocationState(state) for state in session.scalars(query)}
