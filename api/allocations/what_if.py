"""The answer to a what-if: the engine's, with names for its ids, the cost, and the customer's own limits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations import claims
from api.allocations.plan_schemas import CostOut, LimitOut, PlanIn, PlannedHost, PlanOut
from api.allocations.planner import Planner
from api.allocations.request import demand_of
from api.billing.journal import balance
from api.billing.prices import Payer, load_prices
from api.clock import utc_now
from api.db import Database
from api.environments.schemas import DeviceOut, WaitOut
from api.errors import Unprocessable
from api.images.tables import Image
from api.machines.tables import Gpu, Host
from api.principal import Principal
from api.quotas.limits import Path
from api.quotas.service import Asked, check_ever, shortfall
from api.settings import Settings
from api.tenants import workspaces
from api.tenants.tables import Customer
from scheduler.demand import Demand
from scheduler.money import cumulative_charge_micro, worst_case_charge_micro
from scheduler.plan_protocol import PlanAnswer, PlanQuestion, When
from scheduler.views import Part, Request

_MS = 1000
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class _Terms:
    """For how long it is paid ahead, of what time its cost is told, where alone it may run, if it is a task."""

    hold_s: int
    cost_s: int | None
    bound_host_id: int | None
    task: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that could run, with what it costs and the limits that stand against it now."""

    question: PlanQuestion
    costs: Sequence[CostOut]
    limits: Sequence[LimitOut]


def plan(
    database: Database,
    settings: Settings,
    planner: Planner,
    principal: Principal,
    wanted: PlanIn,
    *,
    hold_s: int | None = None,
    cost_s: int | None = None,
    bound_host_id: int | None = None,
    task: bool = False,
) -> PlanOut:
    """Ask the engine with no transaction open; what could never run is answered without it.

    `hold_s` is for how long it is paid ahead, None: as an environment. `cost_s` is what `micro_for_limit` is of, None:
    its time limit. `bound_host_id` is the host where its volumes lie.

    Raises:
        Unprocessable: it names what does not exist.
        api.allocations.planner.ControllerUnavailable
    """
    now = utc_now()
    terms = _Terms(hold_s or settings.environment_disconnect_s, cost_s or wanted.time_limit_s, bound_host_id, task)
    try:
        asked = database.transact(lambda session: _ask(session, principal, wanted, terms, now=now))
    except _Never as never:
        wait = WaitOut(code=never.code, detail=never.detail)
        return PlanOut(when=When.NEVER, wait=wait, eta=None, hosts=[], costs=[], limits=[])
    answer = planner.plan(asked.question)
    with database.session() as session:
        hosts = _hosts(session, answer.parts)
    models = {device.model for host in hosts for device in host.devices}
    return PlanOut(
        when=answer.when,
        wait=_wait(answer),
        eta=now if answer.when is When.NOW else answer.reason.eta if answer.reason else None,
        hosts=hosts,
        costs=[cost for cost in asked.costs if not models or cost.gpu_model in models],
        limits=list(asked.limits),
    )


class _Never(Exception):
    def __init__(self, error: Unprocessable) -> None:
        self.code = error.code
        self.detail = error.detail


def _ask(session: Session, principal: Principal, wanted: PlanIn, terms: _Terms, *, now: datetime) -> _Asked:
    customer = session.get_one(Customer, principal.tenant_id)
    workspace_id = workspaces.find_id(session, customer_id=customer.id, name=wanted.workspace)
    options = wanted.scheduling
    image = _image_reference(session, wanted.image)
    claim = claims.find(session, customer_id=customer.id, run=options, now=now)
    try:
        size = claims.size_of(claim, options, gpus=wanted.gpus)
        demand = demand_of(
            options,
            gpus=wanted.gpus,
            cpu_milli=wanted.cpu_milli or size.cpu_milli,
            memory_bytes=wanted.memory_bytes or size.memory_bytes,
            nodes=wanted.nodes,
            within=wanted.within,
            bound_host_id=terms.bound_host_id,
            image=image,
        )
        demand = claims.in_group(claim, demand)
        models = claims.check(session, claim, demand)
        path = Path(customer.id, workspace_id, principal.user_id)
        counted = Asked(demand.counted(task=terms.task), options.time_limit_s, models)
        limit_s = check_ever(session, path, counted)
    except Unprocessable as error:
        raise _Never(error) from error
    request = Request(
        allocation_id=0,
        allocation_uid="",
        customer_id=customer.id,
        workspace_id=workspace_id,
        demand=demand,
        queued_at=now,
        priority=options.priority,
        group=options.capacity_group,
        preemptible=options.preemptible,
        min_runtime_s=options.min_runtime_s,
        limit_s=limit_s,
        hold_s=terms.hold_s,
        reservation_id=claim.reservation.id if claim.reservation else None,
        user_id=path.user_id,
        task=terms.task,
    )
    counted = replace(counted, limit_s=limit_s)
    costs = _costs(session, request, models, customer.currency, limit_s=terms.cost_s)
    limits = _limits(session, path, counted, demand, costs, hold=timedelta(seconds=terms.hold_s))
    return _Asked(PlanQuestion(request), costs, limits)


def _image_reference(session: Session, name: str | None) -> str:
    if name is None:
        return ""
    reference = session.scalar(select(Image.reference).where(Image.name == name, Image.enabled))
    if reference is None:
        raise Unprocessable(f"There is no image {name!r}; see /customer/images.", code="unknown_image")
    return reference


def _costs(
    session: Session, request: Request, models: Sequence[str], currency: str, *, limit_s: int | None
) -> list[CostOut]:
    costs = []
    prices, payer = load_prices(session, at=request.queued_at), Payer(request.customer_id, currency, request.group)
    for model in models:
        price = prices.price_of(model, payer)
        if price is None:
            continue
        quote = price.quote(preemptible=request.preemptible, reserved=request.reservation_id is not None)
        micro = quote.price_micro_per_gpu_hour

        def charge(duration_ms: int, micro: int = micro) -> int:
            return cumulative_charge_micro(
                price_micro_per_gpu_hour=micro, milli=request.demand.gpu_milli, duration_ms=duration_ms
            )

        costs.append(
            CostOut(
                gpu_model=model,
                currency=quote.currency,
                terms=quote.terms,
                price_micro_per_gpu_hour=micro,
                kept_for_s=quote.kept_for_s,
                micro_per_hour=charge(_HOUR_MS),
                micro_for_limit=None if limit_s is None else charge(limit_s * _MS),
            )
        )
    return costs


def _limits(
    session: Session, path: Path, asked: Asked, demand: Demand, costs: Sequence[CostOut], *, hold: timedelta
) -> list[LimitOut]:
    limits = []
    cheapest = min((cost.price_micro_per_gpu_hour for cost in costs), default=0)
    needed = worst_case_charge_micro(
        price_micro_per_gpu_hour=cheapest,
        milli=demand.gpu_milli,
        duration_ms=round(hold.total_seconds() * _MS),
    )
    if lacking := shortfall(session, path, asked, cost_micro=needed):
        limits.append(LimitOut(code="quota", detail=f"At present {lacking}."))
    if balance(session, path.customer_id).available_micro < needed:
        minutes = -(-hold.total_seconds() // 60)
        limits.append(LimitOut(code="balance", detail=f"The balance does not cover its first {minutes:.0f} minutes."))
    return limits


def _wait(answer: PlanAnswer) -> WaitOut | None:
    reason = answer.reason
    if reason is None:
        return None
    return WaitOut(
        code=reason.code,
        detail=reason.detail,
        position=reason.position,
        figures=dict(reason.figures) if reason.figures is not None else None,
        eta=reason.eta,
        eta_basis=reason.eta_basis,
    )


def _hosts(session: Session, parts: Sequence[Part]) -> list[PlannedHost]:
    """What is no longer there is left out."""
    ids = [gpu_id for part in parts for gpu_id, _ in part.devices]
    gpus = {gpu.id: gpu for gpu in session.scalars(select(Gpu).where(Gpu.id.in_(ids)))}
    names = {
        host_id: name
        for host_id, name in session.execute(
            select(Host.id, Host.name).where(Host.id.in_([part.host_id for part in parts]))
        )
    }
    return [
        PlannedHost(
            host=names[part.host_id],
            devices=[
                DeviceOut(uuid=gpu.uuid, model=gpu.model, milli=milli, simulated=gpu.simulated)
                for gpu_id, milli in part.devices
                if (gpu := gpus.get(gpu_id)) is not None
            ],
        )
        for part in parts
        if part.host_id in names
    ]
