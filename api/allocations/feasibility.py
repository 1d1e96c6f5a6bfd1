"""Whether a request could ever run on the hosts that there are, whatever else runs on them now."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.billing.prices import price_for
from api.clock import utc_now
from api.errors import Unprocessable
from api.machines.tables import Gpu, Host
from api.tenants.tables import Customer
from scheduler.gpu_model import matches
from scheduler.states import AdminState


@dataclass(frozen=True, slots=True)
class Need:
    gpus: int
    gpu_model: str | None
    cpu_milli: int
    memory_bytes: int
    bound_host_id: int | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a host has of one GPU model. An allocation's devices are all of one model, since it has one price."""

    host_id: int
    model: str
    gpus: int
    cpu_milli: int
    memory_bytes: int


def load_offers(session: Session) -> list[Offer]:
    """What the hosts have that are not retired, in use or not."""
    rows = session.execute(
        select(Host.id, Host.cpu_milli, Host.memory_bytes, Gpu.model)
        .join(Gpu, Gpu.host_id == Host.id)
        .where(Host.admin_state != AdminState.RETIRED, Gpu.present)
    )
    counted = Counter((row.id, row.model, row.cpu_milli, row.memory_bytes) for row in rows)
    return [
        Offer(host_id=host_id, model=model, gpus=count, cpu_milli=cpu_milli, memory_bytes=memory_bytes)
        for (host_id, model, cpu_milli, memory_bytes), count in counted.items()
    ]


def check(offers: Sequence[Offer], need: Need) -> list[str]:
    """The GPU models with which the request could run on an empty host.

    Raises:
        Unprocessable: there is none; the code says what can't be had.
    """
    if need.bound_host_id is not None:
        offers = [offer for offer in offers if offer.host_id == need.bound_host_id]
        if not offers:
            raise Unprocessable("The host that its volume lives on has left for good.", code="host_not_available")
    wanted = need.gpu_model
    offers = [offer for offer in offers if wanted is None or matches(wanted, offer.model)]
    if not offers:
        raise Unprocessable(f"No host has a GPU of model {wanted!r}.", code="no_such_model")
    most = max(offer.gpus for offer in offers)
    offers = [offer for offer in offers if offer.gpus >= need.gpus]
    if not offers:
        raise Unprocessable(f"No host has more than {most} GPUs of that model.", code="too_many_gpus")
    most = max(offer.memory_bytes for offer in offers)
    offers = [offer for offer in offers if offer.memory_bytes >= need.memory_bytes]
    if not offers:
        raise Unprocessable(f"No such host has more than {most} bytes of memory.", code="too_much_memory")
    most = max(offer.cpu_milli for offer in offers)
    offers = [offer for offer in offers if offer.cpu_milli >= need.cpu_milli]
    if not offers:
        raise Unprocessable(f"No such host has more than {most} milli-cores.", code="too_many_cpus")
    return sorted({offer.model for offer in offers})


def check_price(session: Session, models: Sequence[str], *, customer_id: int) -> None:
    """Raise Unprocessable `no_price` if none of the models has a price in the customer's currency."""
    currency = session.get_one(Customer, customer_id).currency
    now = utc_now()
    if all(price_for(session, model, at=now, currency=currency) is None for model in models):
        raise Unprocessable(f"Nobody has set a price in {currency} for that GPU model yet.", code="no_price")
