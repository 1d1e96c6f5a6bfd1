"""What limits a request as inputs of a decision: quotas on its path, prices, balance. The store checks them again."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from scheduler.engine.blocked import Blocked, Code, Epoch
from scheduler.engine.kept import KeptLimits
from scheduler.engine.state import Refusal, State
from scheduler.money import worst_case_charge_micro
from scheduler.quota import NOTHING, Lack, Level, Limits, Scope, lack, lease_lack, model_lack
from scheduler.views import Part, Request


def within_limits(
    state: State, request: Request, *, kept: KeptLimits | None, now: datetime, until: datetime
) -> Request | Blocked:
    """The request with the models that its quotas allow and its customer can pay for; or the limit that stands against
    it now.

    `kept` is what of quotas is kept for earlier requests; that may change `until` then. None: it comes first.
    """
    customer = state.customer(request.customer_id)
    epoch = state.epoch(request)
    if customer.disabled:
        return Blocked(Code.QUOTA, "The customer is disabled.", epoch)
    for refusal in state.refusals.get(request.customer_id, ()):
        if refusal.stands(now) and _needs_no_less(state, request, refusal):
            return replace(refusal.verdict, epoch=epoch)
    limited = customer.limits_on(request)
    for scope, limits in limited:
        if found := _lack(state, request, scope, limits):
            return _over(found, epoch)
        if kept is not None and (found := _lack(state, request, scope, limits, kept)):
            return _beside(found, epoch, until)
    allowed = _of_models(state, request, limited, kept, until)
    return allowed if isinstance(allowed, Blocked) else _paid_for(state, allowed)


def scopes_of(state: State, request: Request) -> tuple[Scope, ...]:
    """Those on its path that have limits."""
    return tuple(scope for scope, _ in state.customer(request.customer_id).limits_on(request))


def can_ever_fit(state: State, request: Request) -> bool:
    """Whether it is within the limits alone."""
    return not any(
        lack(limits, held=NOTHING, asked=request.resources) or lease_lack(limits, request.limit_s)
        for _, limits in state.customer(request.customer_id).limits_on(request)
    )


def _lack(state: State, request: Request, scope: Scope, limits: Limits, kept: KeptLimits | None = None) -> Lack | None:
    """With `kept`, beside that too."""
    held = state.holdings.tallies.resources(scope)
    if kept is not None:
        held += kept.resources(scope)
    found = lack(limits, held=held, asked=request.resources, scope=scope)
    return found or lease_lack(limits, request.limit_s, scope=scope)


def _of_models(
    state: State,
    request: Request,
    limited: Sequence[tuple[Scope, Limits]],
    kept: KeptLimits | None,
    until: datetime,
) -> Request | Blocked:
    """With the models of which it may have as many, beside what is kept for earlier requests."""
    gpus = request.resources.gpus
    by_model = [(scope, limits) for scope, limits in limited if limits.gpu_models]
    models = state.models(request.demand) if gpus and by_model else ()
    if not models:
        return request
    lacks = _lacks_by_model(state, models, by_model, gpus, kept)
    allowed = tuple(sorted(set(models) - lacks.keys()))
    if not allowed:
        held = _lacks_by_model(state, models, by_model, gpus, None)
        if len(held) == len(lacks):
            return _over(held[models[0]], state.epoch(request))
        return _beside(lacks[models[0]], state.epoch(request), until)
    if len(allowed) == len(models):
        return request
    return replace(request, demand=replace(request.demand, models=allowed))


def _lacks_by_model(
    state: State,
    models: Sequence[str],
    limited: Sequence[tuple[Scope, Limits]],
    gpus: int,
    kept: KeptLimits | None,
) -> dict[str, Lack]:
    """Of the models of which it may not have as many now."""
    lacks: dict[str, Lack] = {}
    for scope, limits in limited:
        held, aside = state.holdings.tallies.gpus(scope), kept.gpus(scope) if kept is not None else None
        for model in models:
            found = model_lack(limits, model, held=held, gpus=gpus, scope=scope, kept=aside)
            if found is not None:
                lacks.setdefault(model, found)
    return lacks


def _over(found: Lack, epoch: Epoch) -> Blocked:
    detail = f"{found.sentence[0].upper()}{found.sentence[1:]}."
    return Blocked(Code.QUOTA, detail, epoch, found.figures, lack=found)


def _beside(found: Lack, epoch: Epoch, until: datetime) -> Blocked:
    """It would fit, if nothing were kept."""
    whose = found.scope.level if found.scope is not None else Level.CUSTOMER
    detail = f"What is left of the quota is kept for an earlier request of the same {whose}."
    return Blocked(Code.QUOTA, detail, epoch, found.figures, until, lack=found)


def _needs_no_less(state: State, request: Request, refusal: Refusal) -> bool:
    """Whether a limit that stands against the refused one stands against the request too."""
    other = refusal.request
    wanted, refused = request.resources, other.resources
    return (
        set(scopes_of(state, other)) <= set(scopes_of(state, request))
        and wanted.gpus >= refused.gpus
        and wanted.cpu_milli >= refused.cpu_milli
        and wanted.memory_bytes >= refused.memory_bytes
        and wanted.tasks >= refused.tasks
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
