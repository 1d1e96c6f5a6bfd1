"""What the scheduler says, in words: why something waits, when it may start, and what a plan comes to."""

from __future__ import annotations

from datetime import datetime

from remotegpu.cli.units import duration, gpus, memory, moment, money
from remotegpu.models import Environment, Plan, PlannedHost, Wait

_BASES = {
    "reservation": "reservation",
    "limits": "when time limits end",
    "estimate": "estimate",
    "history": "estimate from history",
}


def waiting(wait: Wait, *, now: datetime) -> str:
    """The reason, the place, and when it may start."""
    place = f" (place {wait.position} in the queue)" if wait.position else ""
    return f"{wait.detail}{place} {expected(wait, now=now)}".rstrip()


def expected(wait: Wait, *, now: datetime) -> str:
    """When it may start and what that rests on; nothing before the scheduler has looked at it."""
    if wait.eta is not None:
        about = "" if wait.eta_basis in ("reservation", "limits") else "about "
        return (
            f"Expected to start {about or 'at '}{moment(wait.eta, now=now)} ({_BASES.get(wait.eta_basis, 'estimate')})."
        )
    return "" if wait.code == "queued" else "When it starts is unknown."


def queued_with(environment: Environment) -> list[tuple[str, object]]:
    """The options that are not the platform's own choice."""
    fields: list[tuple[str, object]] = [
        ("GPU memory at least", memory(environment.gpu_memory_bytes) if environment.gpu_memory_bytes else None),
        ("labels", ", ".join(environment.selectors) or None),
        ("driver at least", environment.driver),
        ("CUDA at least", environment.cuda),
        ("apart", environment.apart),
        ("priority", environment.priority or None),
        ("preemptible", "yes" if environment.preemptible else None),
        ("runs at least", duration(environment.min_runtime_s) if environment.min_runtime_s else None),
        ("time limit", duration(environment.time_limit_s)),
        ("reservation", environment.reservation),
        ("capacity group", environment.capacity_group),
    ]
    return [(title, value) for title, value in fields if value is not None]


def planned(plan: Plan, *, now: datetime) -> list[tuple[str, object]]:
    """A plan, as titles and values."""
    fields: list[tuple[str, object]] = [("starts", _starts(plan, now=now))]
    if plan.wait is not None:
        fields.append(("why not now" if plan.when != "never" else "why", plan.wait.detail))
    fields += [("on", _host(host)) for host in plan.hosts]
    for cost in plan.costs:
        price = f"{money(cost.micro_per_hour, cost.currency)} per hour"
        if cost.micro_for_limit is not None:
            price += f", {money(cost.micro_for_limit, cost.currency)} for its time limit"
        if cost.terms != "on_demand":
            price += f", {cost.terms}"
        if cost.kept_for_s is not None:
            price += f", kept for {duration(cost.kept_for_s)}"
        fields.append((f"price on {cost.gpu_model}", price))
    fields += [(limit.code, limit.detail) for limit in plan.limits]
    if plan.when != "never" and not plan.limits:
        fields.append(("quota and balance", "allow it"))
    return fields


def _starts(plan: Plan, *, now: datetime) -> str:
    if plan.when == "now":
        return "now"
    if plan.when == "never":
        return "never"
    said = expected(plan.wait, now=now) if plan.wait is not None else ""
    return said.removeprefix("Expected to start ").rstrip(".") if plan.when == "later" and said else "unknown"


def _host(host: PlannedHost) -> str:
    if not host.devices:
        return host.host
    simulated = " (simulated)" if any(device.simulated for device in host.devices) else ""
    model = host.devices[0].model
    return f"{host.host}: {gpus(sum(device.milli for device in host.devices))} x {model}{simulated}"
