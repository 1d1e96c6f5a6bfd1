"""The GPU models that may be rented: how many there are, how many are free now, and what they cost."""

from dataclasses import dataclass

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.allocations.tables import AllocationDevice
from api.billing.prices import Payer, load_prices
from api.clock import utc_now
from api.machines.tables import Gpu, Host
from api.tenants.tables import Customer
from scheduler.states import AdminState, DeviceStatus


class ModelOffer(BaseModel):
    gpu_model: str
    memory_bytes: int
    total: int
    free: int
    price_micro_per_gpu_hour: int | None
    currency: str | None
    simulated: bool


@dataclass(slots=True)
class _Count:
    total: int = 0
    free: int = 0


@dataclass(frozen=True, slots=True, order=True)
class _Kind:
    model: str
    memory_bytes: int
    simulated: bool


def model_offers(session: Session, *, customer: Customer) -> list[ModelOffer]:
    """By model name, at the customer's price. `free` counts whole devices of hosts that take new work now."""
    taken = (
        select(AllocationDevice.gpu_id)
        .where(AllocationDevice.gpu_id == Gpu.id, func.upper_inf(AllocationDevice.period))
        .exists()
    )
    query = (
        select(Gpu.model, Gpu.memory_bytes, Gpu.simulated, Gpu.healthy, taken, Host.device_status, Host.admin_state)
        .join(Host, Host.id == Gpu.host_id)
        .where(Gpu.present, Host.admin_state != AdminState.RETIRED)
    )
    counts: dict[_Kind, _Count] = {}
    for model, memory_bytes, simulated, healthy, is_taken, device_status, admin_state in session.execute(query):
        count = counts.setdefault(_Kind(model, memory_bytes, simulated), _Count())
        count.total += 1
        takes_work = device_status == DeviceStatus.ONLINE and admin_state == AdminState.AVAILABLE
        count.free += takes_work and healthy and not is_taken
    found, payer = load_prices(session, at=utc_now()), Payer(customer.id, customer.currency)
    prices = {kind.model: found.price_of(kind.model, payer) for kind in counts}
    return [
        ModelOffer(
            gpu_model=kind.model,
            memory_bytes=kind.memory_bytes,
            total=count.total,
            free=count.free,
            price_micro_per_gpu_hour=price.price_micro if (price := prices[kind.model]) else None,
            currency=price.currency if price else None,
            simulated=kind.simulated,
        )
        for kind, count in sorted(counts.items(), key=lambda item: item[0])
    ]
