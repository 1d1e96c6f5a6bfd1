"""Whether a request could ever run on the hosts that there are, whatever else runs on them now."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.prices import Payer, load_prices
from api.clock import utc_now
from api.errors import Unprocessable
from api.tenants.tables import Customer
from scheduler.demand import Demand, Version
from scheduler.gpu_model import matches
from scheduler.selectors import write
from scheduler.states import AdminState

# A row for each kind of GPU of a host, and not for each GPU: every submission reads them.
_OFFERS = text(
    "select h.id, coalesce(d.model, ''), count(d.id), h.cpu_milli, h.memory_bytes, coalesce(d.memory_bytes, 0),"
    " h.labels, h.facts ->> 'driver_version', h.facts ->> 'cuda_version'"
    " from hosts h left join gpus d on d.host_id = h.id and d.present"
    f" where h.admin_state <> '{AdminState.RETIRED}' and (cast(:ids as bigint[]) is null or d.id = any(:ids))"
    " group by h.id, d.model, d.memory_bytes order by h.id, d.model"
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a host has of one kind of GPU. An allocation's devices are all of one model, since it has one price.

    A host without GPUs has one offer, of none.
    """

    host_id: int
    model: str
    gpus: int
    cpu_milli: int
    memory_bytes: int
    gpu_memory_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    driver: Version = ()
    cuda: Version = ()


def load_offers(session: Session, *, gpu_ids: Collection[int] | None = None) -> list[Offer]:
    """What the hosts have that are not retired, in use or not; of these devices alone, if they are named."""
    found = session.execute(_OFFERS, {"ids": None if gpu_ids is None else list(gpu_ids)})
    return [
        Offer(host_id, model, gpus, cpu_milli, memory, size, labels, read_version(driver), read_version(cuda))
        for host_id, model, gpus, cpu_milli, memory, size, labels, driver, cuda in found
    ]


def check(offers: Sequence[Offer], demand: Demand) -> list[str]:
    """The GPU models with which the request could run if nothing else did; none for one without GPUs.

    Raises:
        Unprocessable: nothing could run it; the code says what can't be had.
    """
    offers = check_kind(offers, demand)
    shape, model = demand.shape, " or ".join(demand.models) or "any model"
    offers = _at_least(offers, shape.gpus, lambda offer: offer.gpus, f"GPUs of {model}", code="too_many_gpus")
    offers = _at_least(
        offers, shape.memory_bytes, lambda offer: offer.memory_bytes, "bytes of memory", code="too_much_memory"
    )
    offers = _at_least(offers, shape.cpu_milli, lambda offer: offer.cpu_milli, "milli-cores", code="too_many_cpus")
    models = _models_on_enough_hosts(offers, demand)
    return sorted(models) if shape.gpus else []


def check_kind(offers: Sequence[Offer], demand: Demand) -> Sequence[Offer]:
    """Those whose host and GPUs are of the kind asked for, whatever the size.

    Raises:
        Unprocessable: there are none; the code says which wish none of those left fulfils.
    """
    if demand.bound_host_id is not None:
        offers = [offer for offer in offers if offer.host_id == demand.bound_host_id]
        if not offers:
            raise Unprocessable("The host that its volume lives on has left for good.", code="host_not_available")
    if not demand.shape.gpus:
        return _of_kind(offers, demand, "host")
    left = [offer for offer in offers if offer.gpus and _has_model(offer, demand.models)]
    if not left:
        model = " or ".join(repr(model) for model in demand.models) or "any kind"
        raise Unprocessable(f"No host has a GPU of model {model}.", code="no_such_model")
    left = _at_least(
        left,
        demand.gpu_memory_bytes,
        lambda offer: offer.gpu_memory_bytes,
        "bytes of GPU memory",
        code="too_little_gpu_memory",
    )
    return _of_kind(left, demand, "host with such GPUs")


def _of_kind(left: Sequence[Offer], demand: Demand, what: str) -> Sequence[Offer]:
    if not left:
        raise Unprocessable("There are no hosts yet.", code="too_many_nodes")
    for selector in demand.selectors:
        left = [offer for offer in left if selector.matches(offer.labels)]
        if not left:
            raise Unprocessable(f"No {what} fulfils {write(selector)!r}.", code="no_such_label")
    left = _new_enough(left, demand.driver, lambda offer: offer.driver, "driver", code="driver_too_old")
    return _new_enough(left, demand.cuda, lambda offer: offer.cuda, "CUDA version", code="cuda_too_old")


def priced(session: Session, models: Sequence[str], *, customer_id: int, group: str | None = None) -> list[str]:
    """Those of the models that have a price for the customer (in its capacity group) now.

    Raises:
        Unprocessable: `no_price`, none has one in the customer's currency.
    """
    currency = session.get_one(Customer, customer_id).currency
    prices = load_prices(session, at=utc_now())
    payer = Payer(customer_id, currency, group)
    found = [model for model in models if prices.price_of(model, payer) is not None]
    if models and not found:
        raise Unprocessable(f"Nobody has set a price in {currency} for that GPU model yet.", code="no_price")
    return found


def read_version(text: object) -> Version:
    """A version as a host registers it, up to the first part that is no number; unknown is empty."""
    numbers: list[int] = []
    for part in str(text or "").split("."):
        if not (part.isascii() and part.isdigit()):
            break
        numbers.append(int(part))
    return tuple(numbers)


def _has_model(offer: Offer, models: Sequence[str]) -> bool:
    return not models or any(matches(model, offer.model) for model in models)


def _at_least(
    offers: Sequence[Offer], needed: int, have: Callable[[Offer], int], unit: str, *, code: str
) -> list[Offer]:
    left = [offer for offer in offers if have(offer) >= needed]
    if not left:
        most = max(have(offer) for offer in offers)
        raise Unprocessable(f"{needed} {unit} were asked for; no such host has more than {most}.", code=code)
    return left


def _new_enough(
    offers: Sequence[Offer], needed: Version, have: Callable[[Offer], Version], what: str, *, code: str
) -> list[Offer]:
    left = [offer for offer in offers if have(offer) >= needed]
    if not left:
        newest = max(have(offer) for offer in offers)
        sentence = f"No such host has a {what} of at least {_dotted(needed)}; the newest is {_dotted(newest)}."
        raise Unprocessable(sentence, code=code)
    return left


def _dotted(version: Version) -> str:
    return ".".join(map(str, version)) or "unknown"


def _models_on_enough_hosts(offers: Sequence[Offer], demand: Demand) -> set[str]:
    """Models that `nodes` hosts have, all with one value of the label `within` if that is asked for."""
    hosts: defaultdict[tuple[str, str | None], set[int]] = defaultdict(set)
    for offer in offers:
        value = None if demand.within is None else offer.labels.get(demand.within)
        if demand.within is None or value is not None:
            hosts[offer.model if demand.shape.gpus else "", value].add(offer.host_id)
    models = {model for (model, _), ids in hosts.items() if len(ids) >= demand.nodes}
    if not models:
        most = max(map(len, hosts.values()), default=0)
        where = f" with one value of the label {demand.within!r}" if demand.within is not None else ""
        raise Unprocessable(
            f"{demand.nodes} hosts were asked for; at most {most}{where} could take it.", code="too_many_nodes"
        )
    return models
