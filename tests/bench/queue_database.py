"""Where the work of queue sets is queued and ended: PostgreSQL, as the platform keeps it, or memory."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.allocations.leadership import acquire
from api.allocations.store import PostgresStore
from api.allocations.tables import Allocation, AllocationEvent
from api.allocations.transitions import Step, move_all, notify
from api.billing.journal import top_up
from api.billing.prices import create_price
from api.bulk import insert_rows
from api.capacity.tables import CapacityGroup as CapacityGroupRow
from api.clock import utc_now
from api.db import Database
from api.identity.tables import User
from api.machines.tables import Gpu, Host
from api.migrations.migrate import migrate
from api.settings import Settings
from api.tenants.tables import Customer, Workspace
from deploy.postgres import EmbeddedPostgres
from scheduler.ports import Store
from scheduler.simulated_database import SimulatedDatabase
from scheduler.simulated_store import MemoryStore
from scheduler.simulator.course import number_of
from scheduler.simulator.trace import EPOCH, Trace, as_request
from scheduler.states import AdminState, AllocationState, DeviceStatus, EndReason
from scheduler.views import CapacityGroup, HostView

_MICRO = 10**15  # a balance that never ends
_ACTOR = "bench"


class QueueWriter(Protocol):
    """What users do: each is one transaction. `begun` is when the trace's time began."""

    begun: datetime

    def queue(self, uids: Sequence[str]) -> None:
        """Attempts at work of the trace, by their uids."""

    def end(self, uids: Sequence[str]) -> None: ...


@dataclass
class InMemory:
    """All of it in this process: `store` is the loop's, the rest are the users'."""

    trace: Trace
    database: SimulatedDatabase = field(default_factory=SimulatedDatabase)
    ids: dict[str, int] = field(default_factory=dict)
    begun: datetime = EPOCH

    def __post_init__(self) -> None:
        for host in self.trace.hosts:
            self.database.add_host(host)
        self.database.set_groups(self.trace.groups)
        self.store: Store = MemoryStore(self.database, utc_now, idle_life=timedelta(0))

    def queue(self, uids: Sequence[str]) -> None:
        for uid in uids:
            self.ids[uid] = len(self.ids) + 1
            self.database.submit(as_request(self.trace.work[number_of(uid)], self.ids[uid], uid, begun=self.begun))

    def end(self, uids: Sequence[str]) -> None:
        for uid in uids:
            self.database.request_end(self.ids[uid], EndReason.COMPLETED)


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who a queue's work belongs to: ids."""

    customer_id: int
    workspace_id: int
    user_id: int
    group_id: int


@dataclass
class PostgresWriter:
    """As the platform's API writes them, many at a time."""

    database: Database
    trace: Trace
    begun: datetime = EPOCH

    def __post_init__(self) -> None:
        # In the order in which `_set_up` has made them: that of the trace's groups.
        query = (
            select(Customer.id, Workspace.id, User.id, CapacityGroupRow.id)
            .join(Workspace, Workspace.customer_id == Customer.id)
            .join(User, User.customer_id == Customer.id)
            .join(CapacityGroupRow, CapacityGroupRow.customer_id == Customer.id)
            .order_by(CapacityGroupRow.id)
        )
        with self.database.session() as session:
            self._owners = [_Owner(*row) for row in session.execute(query)]

    def queue(self, uids: Sequence[str]) -> None:
        """A row each, and its event."""
        rows = [self._row(uid) for uid in uids]

        def work(session: Session) -> None:
            insert_rows(session, Allocation, rows)
            ids = session.scalars(select(Allocation.id).where(Allocation.uid == func.any([row["uid"] for row in rows])))
            event = {"actor": _ACTOR, "to_state": AllocationState.QUEUED}
            insert_rows(session, AllocationEvent, [{"allocation_id": number, **event} for number in ids])
            notify(session)

        self.database.transact(work)

    def end(self, uids: Sequence[str]) -> None:
        def work(session: Session) -> None:
            columns = (Allocation.id, Allocation.state, Allocation.generation)
            found = select(*columns).where(Allocation.uid == func.any([UUID(uid) for uid in uids]))
            steps = [
                Step(number, AllocationState(state), generation)
                for number, state, generation in session.execute(found.order_by(Allocation.id).with_for_update())
                if state in (AllocationState.PLACING, AllocationState.ACTIVE)
            ]
            move_all(session, steps, AllocationState.RELEASING, actor=_ACTOR, end_reason=EndReason.COMPLETED)

        self.database.transact(work)

    def _row(self, uid: str) -> dict[str, Any]:  # Any: columns by name
        work = self.trace.work[number_of(uid)]
        owner, shape = self._owners[work.customer_id - 1], work.demand.shape
        return {
            "uid": UUID(uid),
            "customer_id": owner.customer_id,
            "workspace_id": owner.workspace_id,
            "user_id": owner.user_id,
            "capacity_group_id": owner.group_id,
            "kind": "task",
            "gpus": shape.gpus,
            "gpu_models": f"{{{','.join(work.demand.models)}}}",
            "cpu_milli": shape.cpu_milli,
            "memory_bytes": shape.memory_bytes,
            "disk_bytes": 1,
            "image_reference": "bench",
            "container_name": "bench",
            "disconnect_s": 60,
            "priority": work.priority,
            "preemptible": work.preemptible,
            "queued_at": self.begun + timedelta(milliseconds=work.arrives_ms),
        }


@contextmanager
def in_postgres(trace: Trace, *, price_micro: int) -> Iterator[tuple[str, PostgresStore]]:
    """A server of its own that waits for the disk at each commit, as any that the launcher starts does.

    Its database with all that the work belongs to, by URL, and the store of the one who leads there. A GPU hour costs
    `price_micro`; without a price there is nothing to bill.
    """
    directory = Path(tempfile.mkdtemp(prefix="rgb-", dir="/var/tmp"))
    directory.chmod(0o711)
    server = EmbeddedPostgres(directory / "pg")
    try:
        server.start()
        server.ensure_database("bench")
        database = Database(server.url("bench"))
        try:
            migrate(database.engine)
            database.transact(lambda session: _set_up(session, trace, price_micro))
            yield server.url("bench"), _lead(database)
        finally:
            database.close()
    finally:
        server.stop()
        shutil.rmtree(directory)


def _lead(database: Database) -> PostgresStore:
    with database.engine.connect() as connection:
        leadership = acquire(connection)
        assert leadership is not None
        connection.detach()  # nobody else is there to lead
    settings = Settings(database_url="postgresql://unused", secrets_dir=Path("/nonexistent"), stop_grace_s=0)
    return PostgresStore(database, settings, epoch=leadership.epoch)


def _set_up(session: Session, trace: Trace, price_micro: int) -> None:
    for host in trace.hosts:
        _add_host(session, host)
    for model in sorted({device.model for host in trace.hosts for device in host.devices}):
        create_price(session, gpu_model=model, price_micro=price_micro)
    for group in trace.groups:
        _add_owner(session, group)


def _add_host(session: Session, view: HostView) -> None:
    host = Host(
        name=view.name,
        device_status=DeviceStatus.ONLINE,
        admin_state=AdminState.AVAILABLE,
        cpu_milli=view.cpu_milli,
        memory_bytes=view.memory_bytes,
        disk_bytes=10**15,
        heartbeat_at=utc_now(),
    )
    session.add(host)
    session.flush()
    rows = [
        {
            "uid": UUID(int=device.gpu_id),
            "host_id": host.id,
            "index": index,
            "uuid": device.uuid,
            "model": device.model,
            "memory_bytes": device.memory_bytes,
        }
        for index, device in enumerate(view.devices)
    ]
    session.add_all(Gpu(**row) for row in rows)


def _add_owner(session: Session, group: CapacityGroup) -> None:
    customer = Customer(name=group.name)
    session.add(customer)
    session.flush()
    workspace = Workspace(customer_id=customer.id, name="default", is_default=True)
    user = User(username=group.name, role="customer_owner", customer_id=customer.id, password_hash="x")
    row = CapacityGroupRow(
        name=group.name,
        customer_id=customer.id,
        cohort=group.cohort,
        nominal_milli=group.nominal,
        borrowing_limit_milli=group.borrowing_limit,
        lending_limit_milli=group.lending_limit,
        reclaim_within_cohort=group.reclaim_within_cohort,
        preempt_lower_priority=group.preempt_lower_priority,
    )
    session.add_all([workspace, user, row])
    session.flush()
    top_up(session, customer_id=customer.id, amount_micro=_MICRO, actor="cli", key="bench")
