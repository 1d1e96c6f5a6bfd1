"""A small fleet in the database, with a customer who can pay, for tests of placing and releasing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, select, text

from api.allocations import claims, service
from api.allocations.leadership import acquire
from api.allocations.request import SchedulingOptions, demand_of
from api.allocations.service import Workload
from api.allocations.store import PostgresStore
from api.allocations.tables import Allocation, AllocationDevice, PlacementGroup
from api.billing.journal import top_up
from api.billing.prices import create_price
from api.clock import utc_now
from api.db import Database
from api.identity.tables import User
from api.machines.tables import Gpu, Host
from api.settings import Settings
from api.tenants.tables import Customer, Workspace
from scheduler.engine.engine import Engine
from scheduler.ports import Admitted, Placed, Placement, Releasing, WaitReason
from scheduler.states import AdminState, AllocationState, DeviceStatus
from scheduler.views import Part

GIB = 2**30
A100 = "NVIDIA A100-SXM4-80GB"
H100 = "NVIDIA H100 80GB HBM3"
DOLLAR = 1_000_000

_DEMANDED = {"gpus", "cpu_milli", "memory_bytes", "nodes", "within", "bound_host_id", "image"}


@dataclass(slots=True)
class Fleet:
    database: Database

    @property
    def settings(self) -> Settings:
        return Settings(database_url="postgresql://unused", secrets_dir=Path("/nonexistent"))

    def lead(self) -> PostgresStore:
        """A store of a new epoch."""
        return PostgresStore(self.database, self.settings, epoch=self.epoch())

    def epoch(self) -> int:
        """A new one; the leader's lock itself is given up again at once."""
        with self.database.engine.connect() as connection:
            leadership = acquire(connection)
            assert leadership is not None
            connection.detach()
        return leadership.epoch

    def host(self, name: str = "h1", *, gpus: int = 4, model: str = A100, cpu: int = 32, memory_gib: int = 256) -> Host:
        def work(session: Any) -> Host:
            host = Host(
                name=name,
                device_status=DeviceStatus.ONLINE,
                admin_state=AdminState.AVAILABLE,
                cpu_milli=cpu * 1000,
                memory_bytes=memory_gib * GIB,
                disk_bytes=1000 * GIB,
                heartbeat_at=utc_now(),
            )
            session.add(host)
            session.flush()
            session.add_all(
                Gpu(host_id=host.id, index=i, uuid=f"GPU-{name}-{i}", model=model, memory_bytes=80 * GIB)
                for i in range(gpus)
            )
            return host

        return self.database.transact(work)

    def price(self, gpu_model: str = "A100", *, micro: int = 2 * DOLLAR) -> None:
        self.database.transact(lambda session: create_price(session, gpu_model=gpu_model, price_micro=micro))

    def customer(self, name: str = "acme", *, dollars: int = 1000) -> tuple[Customer, Workspace, User]:
        def work(session: Any) -> tuple[Customer, Workspace, User]:
            customer = Customer(name=name)
            session.add(customer)
            session.flush()
            workspace = Workspace(customer_id=customer.id, name="default", is_default=True)
            user = User(username=f"{name}-owner", role="customer_owner", customer_id=customer.id, password_hash="x")
            session.add_all([workspace, user])
            session.flush()
            if dollars:
                top_up(session, customer_id=customer.id, amount_micro=dollars * DOLLAR, actor="cli", key=name)
            return customer, workspace, user

        return self.database.transact(work)

    def submit(self, owner: tuple[Customer, Workspace, User], **asked: Any) -> Allocation:
        """`asked`: the arguments of `demand_of`, the fields of `SchedulingOptions`, and those of `Workload`."""
        customer, workspace, user = owner
        demanded = {"gpus": 1, "cpu_milli": 4000, "memory_bytes": 16 * GIB, "image": "remotegpu/base:1"}
        demanded |= {key: asked.pop(key) for key in _DEMANDED & asked.keys()}
        wanted = {"gpu_models": ["A100"]} | {
            key: asked.pop(key) for key in SchedulingOptions.model_fields.keys() & asked.keys()
        }
        options = SchedulingOptions.model_validate(wanted)
        workload: dict[str, Any] = {
            "kind": "environment",
            "disk_bytes": 10 * GIB,
            "container_name": "rg-lab",
            "home_volume": "home-lab",
            "disconnect_s": 600,
            "workspace_id": workspace.id,
            "user_id": user.id,
            **asked,
        }

        def work(session: Any) -> Allocation:
            claim = claims.find(session, customer_id=customer.id, run=options, now=utc_now())
            demand = demand_of(options, **demanded)
            return service.submit(session, claim=claim, demand=demand, workload=Workload(**workload), actor="cli")

        return self.database.transact(work)

    def end(self, allocation: Allocation, end_reason: Any) -> None:
        def work(session: Any) -> None:
            row = session.get_one(Allocation, allocation.id)
            service.request_end(session, row, end_reason=end_reason, actor="cli")

        self.database.transact(work)

    def allocation(self, allocation_id: int) -> Allocation:
        with self.database.session() as session:
            return session.get_one(Allocation, allocation_id)

    def rows(self, table: Any) -> Sequence[Any]:
        with self.database.session() as session:
            return session.scalars(select(table).order_by(*inspect(table).primary_key)).all()

    def waits_for_locks(self) -> bool:
        """Some transaction waits for another's row."""
        waiting = text(
            "select exists (select from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database())"
        )
        with self.database.session() as session:
            return bool(session.scalar(waiting))

    def open_device_rows(self) -> list[AllocationDevice]:
        return [row for row in self.rows(AllocationDevice) if row.period.upper is None and not row.period.isempty]

    def groups(self) -> dict[str, PlacementGroup]:
        return {group.name: group for group in self.rows(PlacementGroup)}

    def placement(self, allocation: Allocation, host: Host, *indexes: int, milli: int = 1000) -> Placement:
        """On these devices of one host."""
        return Placement(allocation.id, (self.part(host, *indexes, milli=milli),))

    def part(self, host: Host, *indexes: int, milli: int = 1000) -> Part:
        with self.database.session() as session:
            gpus = session.scalars(select(Gpu).where(Gpu.host_id == host.id).order_by(Gpu.index)).all()
        return Part(host.id, tuple((gpus[index].id, milli) for index in indexes))


def decide(store: PostgresStore) -> Sequence[Placement]:
    """What the engine would place of all that waits."""
    engine, now = Engine(), utc_now()
    engine.update(store.changes(complete=True), now)
    return engine.decide(now).placements


def admit(store: PostgresStore, placement: Placement) -> Admitted:
    (answer,) = store.admit([placement])
    assert isinstance(answer, Admitted), answer
    return answer


def refusal(store: PostgresStore, placement: Placement) -> WaitReason:
    (answer,) = store.admit([placement])
    assert isinstance(answer, WaitReason), answer
    return answer


def activate(store: PostgresStore, allocation: Allocation, *, generation: int = 1) -> bool:
    (done,) = store.record([Placed(allocation.id, generation)])
    return done


def releasing(store: PostgresStore) -> Sequence[Releasing]:
    """All that ends."""
    held = store.changes(complete=True).held
    return store.releasing([item.request.allocation_id for item in held if item.state is AllocationState.RELEASING])
