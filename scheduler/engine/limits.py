"""A customer's own limits as inputs of a decision: quota, prices, balance. The store checks them again."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from scheduler.engine.blocked import Blocked, Code
from scheduler.engine.holdings import resources
from scheduler.engine.state import State
from scheduler.money import worst_case_charge_micro
from scheduler.quota import NOTHING, Limits, Resources, lack
from scheduler.views import Part, Request


def within_limits(state: State, request: Request, *, kept: Resources, until: datetime) -> Request | Blocked:
    """The request with the models that its customer can pay for; or the limit that stands against it now.

    `kept` is what of the customer's quota is kept for other requests of its own; that may change `until` then.
    """
    customer = state.customer(request.customer_id)
    epoch = state.epoch(request)
    if customer.disabled:
        return Blocked(Code.QUOTA, "The customer is disabled.", epoch)
    for refusal in state.refusals.get(request.customer_id, ()):
        if _needs_no_less(request, refusal.request):
            return replace(refusal.verdict, epoch=epoch)
    held, asked = state.holdings.of_customer(request.customer_id), resources(request.demand)
    if found := lack(customer.limits, held=held, asked=asked):
        figures = {f"{found.resource}_limit": found.limit, "in_use": found.held, "wanted": found.asked}
        return Blocked(Code.QUOTA, f"{found.sentence[0].upper()}{found.sentence[1:]}.", epoch, figures)
    if kept != NOTHING and (found := lack(customer.limits, held=held + kept, asked=asked)):
        figures = {f"{found.resource}_limit": found.limit, "in_use": found.held, "wanted": found.asked}
        detail = "What is left of the quota is kept for an earlier request of the same customer."
        return Blocked(Code.QUOTA, detail, epoch, figures, until)
    return _paid_for(state, request)


def can_ever_fit(limits: Limits, request: Request) -> bool:
    """Whether it is within the limits alone."""
    return lack(limits, held=NOTHING, asked=resources(request.demand)) is None


def _needs_no_less(request: Request, other: Request) -> bool:
    """Whether a limit that stands against the other one stands against the request too."""
    wanted, refused = resources(request.demand), resources(other.demand)
    return (
        wanted.gpus >= refused.gpus
        and wanted.cpu_milli >= refused.cpu_milli
        and wanted.memory_bytes >= refused.memory_bytes
        and request.demand.gpu_milli * request.hold_s >= other.demand.gpu_milli * other.hold_s
        and request.demand.models == other.demand.models
        and _price_class(request) == _price_class(other)
    )


def _price_class(request: Request) -> tuple[str | None, bool, bool]:
    """What its price depends on, beside its customer and the model."""
    return request.group, request.preemptible, request.reservation_id is not None


def cost_micro(state: State, request: Request, parts: Sequence[Part]) -> int:
    """What is going to be held for it on these devices; 0 if that is unknown, or nothing limits it."""
    customer = state.customer(request.customer_id)
    if customer.available_micro is None or not request.demand.gpu_milli:
        return 0
    host = state.cluster.host(parts[0].host_id)
    models = {device.gpu_id: device.model for device in host.devices} if host is not None else {}
    model = models.get(parts[0].devices[0][0], "")
    return _cost_micro(request, customer.price_micro(request, model) or 0)


def _paid_for(state: State, request: Request) -> Request | Blocked:
    customer = state.customer(request.customer_id)
    if customer.available_micro is None or not request.demand.gpu_milli:
        return request
    models = state.models(request.demand)
    prices = ((model, customer.price_micro(request, model)) for model in models)
    costs = {model: _cost_micro(request, price) for model, price in prices if price is not None}
    if models and not costs:
        detail = f"No price is set for {' or '.join(sorted(models))}."
        return Blocked(Code.NO_PRICE, detail, state.epoch(request))
    available = customer.available_micro - state.spent.get(request.customer_id, 0)
    affordable = tuple(sorted(model for model, cost in costs.items() if cost <= available))
    if costs and not affordable:
        minutes = -(-request.hold_s // 60)
        detail = f"The balance does not cover its first {minutes} minutes."
        figures = {"needed_micro": min(costs.values()), "available_micro": available}
        return Blocked(Code.BALANCE, detail, state.epoch(request), figures)
    if len(affordable) == len(models):
        return request
    return replace(request, demand=replace(request.demand, models=affordable))


def _cost_micro(request: Request, price_micro_per_gpu_hour: int) -> int:
    return worst_case_charge_micro(
        price_micro_per_gpu_hour=price_micro_per_gpu_hour,
        milli=request.demand.gpu_milli,
        duration_ms=1000 * request.hold_s,
    )
