"""A small world for tests of the money path: customers, a host with GPUs, and allocations that live on it.

It goes through the same functions as the platform, with a clock of its own.
"""

import itertools
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation, AllocationDevice
from api.allocations.transitions import move
from api.billing.holds import HoldOrder, extend_hold, lock_wallets, write_holds
from api.billing.journal import Balance, balance, post_all, top_up
from api.billing.prices import Quote, create_price
from api.billing.settlement import Ending, settle_holds
from api.billing.tables import PriceVersion
from api.clock import to_ms
from api.db import Database
from api.identity.tables import User
from api.machines.tables import Gpu, Host
from api.metering.service import ingest
from api.tenants.tables import Customer, Workspace
from scheduler.host_protocol import LeaseEnd, UsageBatch, UsageReceipt, UsageWindow, WindowId
from scheduler.prices import PriceTerms
from scheduler.states import AllocationState, DeviceStatus, EndReason
from tests.waiting import wait_for

GIB = 1 << 30
MICRO = 1_000_000
_names = itertools.count()
_WAITS = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


@dataclass(slots=True)
class Lease:
    """A placed allocation as its host knows it."""

    allocation_id: int
    uid: str
    generation: int
    gpus: tuple[Gpu, ...]
    starts_ms: int


@dataclass(slots=True)
class World:
    database: Database
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(days=1))
    sequence: int = 0

    @property
    def now_ms(self) -> int:
        return to_ms(self.now)

    def pass_time(self, milliseconds: int) -> None:
        self.now += timedelta(milliseconds=milliseconds)

    def customer(self, *, balance_micro: int = 0) -> Customer:
        def work(session: Session) -> Customer:
            customer = Customer(name=f"customer-{next(_names)}")
            session.add(customer)
            session.flush()
            session.add(Workspace(customer_id=customer.id, name="default", is_default=True))
            session.add(
                User(username=f"u{customer.id}", role="customer_owner", customer_id=customer.id, password_hash="-")
            )
            return customer

        customer = self.database.transact(work)
        if balance_micro:
            self.top_up(customer, balance_micro)
        return customer

    def top_up(self, customer: Customer, amount_micro: int) -> None:
        key = f"test-{next(_names)}"
        self.database.transact(
            lambda session: top_up(session, customer_id=customer.id, amount_micro=amount_micro, actor="test", key=key)
        )

    def host(self, *, gpus: int, model: str = "NVIDIA A100-SXM4-80GB") -> tuple[Host, tuple[Gpu, ...]]:
        def work(session: Session) -> tuple[Host, tuple[Gpu, ...]]:
            name = f"host-{next(_names)}"
            host = Host(name=name)
            session.add(host)
            session.flush()
            devices = tuple(
                Gpu(
                    host_id=host.id,
                    index=i,
                    uuid=f"GPU-{name}-{i}",
                    model=model,
                    memory_bytes=80 * GIB,
                )
                for i in range(gpus)
            )
            session.add_all(devices)
            session.flush()
            return host, devices

        return self.database.transact(work)

    def price(self, micro_per_gpu_hour: int, *, gpu_model: str = "A100") -> PriceVersion:
        return self.database.transact(
            lambda session: create_price(
                session,
                gpu_model=gpu_model,
                price_micro=micro_per_gpu_hour,
                effective_from=self.now - timedelta(days=1),
            )
        )

    def queue(self, customer: Customer, *, gpus: int, disconnect_s: int = 60, preemptible: bool = False) -> int:
        def work(session: Session) -> int:
            workspace = session.scalars(select(Workspace.id).where(Workspace.customer_id == customer.id)).one()
            user = session.scalars(select(User.id).where(User.customer_id == customer.id).limit(1)).one()
            allocation = Allocation(
                customer_id=customer.id,
                workspace_id=workspace,
                user_id=user,
                gpus=gpus,
                cpu_milli=1000,
                memory_bytes=GIB,
                disk_bytes=GIB,
                image_reference="base",
                container_name=f"c{next(_names)}",
                disconnect_s=disconnect_s,
                preemptible=preemptible,
                state=AllocationState.QUEUED,
                generation=0,
            )
            session.add(allocation)
            session.flush()
            return allocation.id

        return self.database.transact(work)

    def place(
        self,
        allocation_id: int,
        price: PriceVersion | Quote,
        gpus: tuple[Gpu, ...],
        *,
        milli: int = 1000,
        active: bool = True,
        limits: int = 2,
    ) -> Lease | None:
        """`queued -> placing -> active`, holding `limits` disconnect limits; None if the balance does not cover it."""

        def work(session: Session) -> Lease | None:
            allocation = session.get_one(Allocation, allocation_id, with_for_update=True)
            until = self.now + timedelta(seconds=limits * allocation.disconnect_s)
            if not self.hold(session, allocation, price, devices_milli=milli * len(gpus), until=until):
                return None
            allocation.host_id, allocation.host_ids = gpus[0].host_id, [gpus[0].host_id]
            move(session, allocation, AllocationState.PLACING, actor="test")
            allocation.run_until = self.now + timedelta(seconds=allocation.disconnect_s)
            for gpu in gpus:
                session.add(
                    AllocationDevice(
                        allocation_id=allocation.id,
                        gpu_id=gpu.id,
                        generation=allocation.generation,
                        milli_from=0,
                        milli_to=milli,
                        period=Range(self.now, None),
                    )
                )
            if active:
                move(session, allocation, AllocationState.ACTIVE, actor="test")
            return Lease(allocation.id, str(allocation.uid), allocation.generation, gpus, self.now_ms)

        return self.database.transact(work)

    def hold(
        self,
        session: Session,
        allocation: Allocation,
        price: PriceVersion | Quote,
        *,
        devices_milli: int,
        until: datetime,
    ) -> bool:
        """Hold the worst case until then for a queued allocation; False if the balance does not cover it."""
        quote = price
        if isinstance(price, PriceVersion):
            quote = Quote(price.id, price.currency, PriceTerms.ON_DEMAND, price.price_micro)
        order = HoldOrder(
            allocation_id=allocation.id,
            generation=allocation.generation + 1,
            customer_id=allocation.customer_id,
            price=quote,
            devices_milli=devices_milli,
            devices=max(allocation.gpus, -(-devices_milli // 1000)),
            starts_ms=self.now_ms,
            covers_until_ms=to_ms(until),
        )
        wallets = lock_wallets(session, {order.owner})
        if not wallets.cover(order):
            return False
        post_all(session, write_holds(session, wallets, [order]))
        return True

    def start(
        self, customer: Customer, price: PriceVersion | Quote, gpus: tuple[Gpu, ...], *, disconnect_s: int = 60
    ) -> Lease:
        lease = self.place(self.queue(customer, gpus=len(gpus), disconnect_s=disconnect_s), price, gpus)
        assert lease is not None
        return lease

    def renew(self, lease: Lease) -> datetime:
        """As a heartbeat does; answers the new `run_until`."""

        def work(session: Session) -> datetime:
            allocation = session.get_one(Allocation, lease.allocation_id, with_for_update=True)
            limit = timedelta(seconds=allocation.disconnect_s)
            paid = extend_hold(session, allocation, until=self.now + 2 * limit, now=self.now)
            assert allocation.run_until is not None
            allocation.run_until = max(allocation.run_until, min(self.now + limit, paid))
            return allocation.run_until

        return self.database.transact(work)

    def release(self, lease: Lease, *, ended_at_ms: int | None, last: UsageWindow | None = None) -> None:
        """`-> releasing -> released`, with the end confirmed by the host; with None, the host is lost.

        `last` is the last window that the host has not delivered yet.
        """
        last_window = None if last is None else WindowId(last.boot_id, last.sequence)
        ended = None if ended_at_ms is None else LeaseEnd(ended_at_ms, exit_code=0, last_window=last_window)

        def work(session: Session) -> None:
            allocation = session.get_one(Allocation, lease.allocation_id, with_for_update=True)
            end_reason = EndReason.HOST_LOST if ended is None else EndReason.CANCELLED
            if ended is None:
                session.get_one(Host, allocation.host_id).device_status = DeviceStatus.LOST
            ending = Ending(
                allocation_id=allocation.id,
                generation=allocation.generation,
                run_until=allocation.run_until,
                ran=allocation.active_at is not None,
                ends=None if ended is None else (ended,),
                host_lost=ended is None,
            )
            move(session, allocation, AllocationState.RELEASING, actor="test", end_reason=end_reason)
            move(session, allocation, AllocationState.RELEASED, actor="test")
            settle_holds(session, [ending], now=self.now)
            for device in session.scalars(
                select(AllocationDevice).where(AllocationDevice.allocation_id == allocation.id)
            ):
                device.period = Range(device.period.lower, max(self.now, device.period.lower or self.now))

        self.database.transact(work)

    def window(self, lease: Lease, from_ms: int, to_ms: int, *, gpu: int = 0, **changes: object) -> UsageWindow:
        self.sequence += 1
        values: dict[str, object] = {
            "boot_id": "boot",
            "sequence": self.sequence,
            "allocation_uid": lease.uid,
            "generation": lease.generation,
            "container_id": "c",
            "device_uuid": lease.gpus[gpu].uuid,
            "milli": 1000,
            "from_ms": from_ms,
            "to_ms": to_ms,
        }
        return UsageWindow(**(values | changes))  # type: ignore[arg-type]  # the tests' own values, also wrong ones

    def deliver(self, host_id: int, *windows: UsageWindow) -> UsageReceipt:
        return ingest(self.database, host_id, UsageBatch(windows), now=self.now)

    def balance(self, customer: Customer) -> Balance:
        with self.database.session() as session:
            return balance(session, customer.id)


def await_waiting(database: Database, future: Future[Any]) -> None:
    """Until a transaction waits for a lock of this one, or has not waited for it."""

    def waits() -> bool:
        with database.engine.connect() as connection:
            return bool(connection.scalar(text(_WAITS))) or future.done()

    wait_for(waits, timeout_s=20, what="the other one to wait for the lock", every_s=0.01)
