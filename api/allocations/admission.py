"""`queued -> placing -> active`, and back: under the locks, what the loop decided is checked again and written down."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.allocations import devices, groups
from api.allocations.snapshot import HOLDING, why_not_schedulable
from api.allocations.tables import Allocation, AllocationDevice, PlacementGroup
from api.allocations.transitions import move
from api.billing.holds import place_hold, settle_hold
from api.billing.prices import price_for
from api.billing.tables import PriceVersion
from api.clock import to_ms
from api.machines.tables import Gpu, Host
from api.quotas.service import shortfall
from api.settings import Settings
from api.tenants.tables import Customer
from scheduler.gpu_model import matches
from scheduler.host_protocol import Lease
from scheduler.money import MILLI_PER_GPU
from scheduler.ports import Admitted, HostShare, Placement, WaitReason
from scheduler.states import AllocationState

ACTOR = "controller"


def admit(session: Session, placement: Placement, *, settings: Settings, now: datetime) -> Admitted | WaitReason:
    """Take a placement, with quota, hold, device rows and the group's name; or say what stands against it.

    Raises:
        sqlalchemy.exc.IntegrityError: a device row of another allocation overlaps (invariant I2).
    """
    locked_at = devices.lock_placement(session)
    customer, allocation = lock_with_customer(session, placement.allocation_id)
    if allocation.state != AllocationState.QUEUED:
        return WaitReason("no_capacity", f"It is {allocation.state} by now.", 1)
    host = session.get_one(Host, placement.host_id, with_for_update={"read": True}, populate_existing=True)
    gpus = session.scalars(select(Gpu).where(Gpu.id.in_(placement.gpu_ids)).order_by(Gpu.index)).all()
    if obstacle := _obstacle(session, allocation, host, gpus):
        return WaitReason("no_capacity", f"It was about to start, but {obstacle}; it is tried again at once.", 1)
    price = price_for(session, gpus[0].model, at=now, currency=customer.currency)
    if price is None:
        return WaitReason("no_price", f"No price in {customer.currency} is set for {gpus[0].model}.", 1)
    run_until = now + timedelta(seconds=allocation.disconnect_s)
    if reason := _limit(session, customer, allocation, price, run_until=run_until, now=now):
        return reason
    move(session, allocation, AllocationState.PLACING, actor=ACTOR, reason=f"host {host.name}")
    allocation.host_id = host.id
    allocation.price_version_id = price.id
    allocation.run_until = run_until
    allocation.wait_reason = None
    allocation.not_before = None
    devices.occupy(session, allocation, [gpu.id for gpu in gpus], since=locked_at)
    group = groups.take(session, allocation, host, placement.gpu_ids)
    return _admitted(session, allocation, group, customer=customer, host=host, settings=settings)


def unfinished(session: Session, *, settings: Settings) -> list[Admitted]:
    """Everything in `placing`, as `admit` answered it."""
    query = (
        select(Allocation, PlacementGroup, Customer, Host)
        .join(PlacementGroup, PlacementGroup.allocation_id == Allocation.id)
        .join(Customer, Customer.id == Allocation.customer_id)
        .join(Host, Host.id == Allocation.host_id)
        .where(Allocation.state == AllocationState.PLACING)
        .order_by(Allocation.id)
    )
    return [
        _admitted(session, allocation, group, customer=customer, host=host, settings=settings)
        for allocation, group, customer, host in session.execute(query)
    ]


def activate(session: Session, allocation_id: int, *, generation: int) -> bool:
    allocation = _lock(session, allocation_id)
    if allocation.state != AllocationState.PLACING or allocation.generation != generation:
        return False
    groups.mark_reserved(session, allocation)
    move(session, allocation, AllocationState.ACTIVE, actor=ACTOR)
    return True


def unplace(session: Session, allocation_id: int, *, generation: int, reason: str, retry_at: datetime) -> bool:
    locked_at = devices.lock_placement(session)
    _, allocation = lock_with_customer(session, allocation_id)
    if allocation.state != AllocationState.PLACING or allocation.generation != generation:
        return False
    devices.vacate(session, allocation, at=locked_at)
    groups.abandon(session, allocation)
    settle_hold(session, allocation, ended=None)
    allocation.price_version_id = None
    allocation.not_before = retry_at
    move(session, allocation, AllocationState.QUEUED, actor=ACTOR, reason=reason)
    return True


def lock_with_customer(session: Session, allocation_id: int) -> tuple[Customer, Allocation]:
    """Lock the customer, then the allocation, in the order that everybody keeps."""
    customer_id = session.scalars(select(Allocation.customer_id).where(Allocation.id == allocation_id)).one()
    customer = session.get_one(Customer, customer_id, with_for_update=True, populate_existing=True)
    return customer, _lock(session, allocation_id)


def _lock(session: Session, allocation_id: int) -> Allocation:
    return session.get_one(Allocation, allocation_id, with_for_update=True, populate_existing=True)


def _obstacle(session: Session, allocation: Allocation, host: Host, gpus: Sequence[Gpu]) -> str | None:
    """What has changed since the snapshot, or is wrong with the decision."""
    if why_not := why_not_schedulable(host):
        return f"host {host.name} takes no new work: {why_not}"
    if allocation.bound_host_id not in (None, host.id):
        return "its volume lives on another host"
    if len(gpus) != allocation.gpus or len({gpu.model for gpu in gpus}) != 1:
        return "the devices chosen are not what was asked for"
    if any(not (gpu.present and gpu.healthy and gpu.host_id == host.id) for gpu in gpus):
        return "a device has failed"
    if allocation.gpu_model is not None and not matches(allocation.gpu_model, gpus[0].model):
        return "the devices chosen are of another model"
    held = select(AllocationDevice.id).where(
        AllocationDevice.gpu_id.in_([gpu.id for gpu in gpus]), func.upper_inf(AllocationDevice.period)
    )
    if session.scalars(held.limit(1)).first() is not None:
        return "somebody else was faster"
    used = select(func.sum(Allocation.cpu_milli), func.sum(Allocation.memory_bytes)).where(
        Allocation.host_id == host.id, Allocation.state.in_(HOLDING)
    )
    cpu_milli, memory_bytes = (int(figure or 0) for figure in session.execute(used).one())
    if cpu_milli + allocation.cpu_milli > host.cpu_milli or memory_bytes + allocation.memory_bytes > host.memory_bytes:
        return f"host {host.name} has not enough CPU or memory left"
    return None


def _limit(
    session: Session,
    customer: Customer,
    allocation: Allocation,
    price: PriceVersion,
    *,
    run_until: datetime,
    now: datetime,
) -> WaitReason | None:
    """The customer's own limit that holds the request back. With None, its hold is placed."""
    lacking = shortfall(
        session,
        customer.id,
        gpus=allocation.gpus,
        cpu_milli=allocation.cpu_milli,
        memory_bytes=allocation.memory_bytes,
    )
    if customer.disabled_at is not None:
        lacking = "the customer is disabled"
    if lacking:
        return WaitReason("quota", f"It would start now, but {lacking}.", _position(session, allocation))
    milli = allocation.gpus * MILLI_PER_GPU
    if place_hold(session, allocation=allocation, price=price, devices_milli=milli, until=run_until, now=now):
        return None
    minutes = -(-allocation.disconnect_s // 60)
    detail = (
        f"It would start now, but the balance does not cover its first {minutes} minutes "
        f"at {price.price_micro_per_gpu_hour / 1_000_000:.2f} {price.currency} per GPU hour."
    )
    return WaitReason("balance", detail, _position(session, allocation))


def _position(session: Session, allocation: Allocation) -> int:
    """Among what waits of the same customer."""
    before = select(func.count()).where(
        Allocation.customer_id == allocation.customer_id,
        Allocation.state == AllocationState.QUEUED,
        Allocation.priority >= allocation.priority,
        Allocation.queued_at < allocation.queued_at,
    )
    return session.scalars(before).one() + 1


def _admitted(
    session: Session,
    allocation: Allocation,
    group: PlacementGroup,
    *,
    customer: Customer,
    host: Host,
    settings: Settings,
) -> Admitted:
    shares = devices.shares_of(session, allocation)
    assert allocation.run_until is not None
    lease = Lease(
        allocation_uid=str(allocation.uid),
        generation=allocation.generation,
        customer_uid=str(customer.uid),
        devices=shares,
        cpu_milli=allocation.cpu_milli,
        memory_bytes=allocation.memory_bytes,
        disk_bytes=allocation.disk_bytes,
        pids=settings.container_pids,
        run_until_ms=to_ms(allocation.run_until),
        image=allocation.image_reference,
        container_name=allocation.container_name,
        home_volume=allocation.home_volume,
        labels={
            "remotegpu.host": str(host.uid),
            "remotegpu.allocation": str(allocation.uid),
            "remotegpu.generation": str(allocation.generation),
            "remotegpu.customer": str(customer.uid),
        },
    )
    share = HostShare(
        host_uid=str(host.uid),
        devices=shares,
        cpu_milli=allocation.cpu_milli,
        memory_bytes=allocation.memory_bytes,
    )
    return Admitted(allocation.id, lease, group.name, (share,), groups.in_the_way(session, group))
