"""Why a request finds no place, in a code, a sentence for people, and figures: told when a cycle has given what it can.

The figures count what is kept for others as free, which it is; where it would do, that is what is said.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from scheduler.cluster.conditions import Condition
from scheduler.cluster.shortage import Shortage
from scheduler.demand import Demand
from scheduler.engine.blocked import Blocked, Code
from scheduler.engine.kept import Asides
from scheduler.engine.state import State
from scheduler.money import MILLI_PER_GPU
from scheduler.views import Request

_NAMED_HOSTS = 3  # in a sentence; the rest are counted
_KEPT = {
    Code.BEHIND_OTHERS: "and kept for who came before",
    Code.RESERVED: "and kept for an advance reservation that begins before it would have ended",
}


def told(
    state: State, asides: Asides, pending: Sequence[tuple[Request, Blocked]], *, released: bool = False
) -> list[Blocked]:
    """The verdicts on requests without a place, with all that people are told. Nothing is set aside any more then.

    `released`: something was kept that is so no longer.
    """
    known: dict[Hashable, Blocked] = {}
    requests = {_key(request): request for request, _ in pending}
    kept = _why_kept(state, asides, requests) if asides or released else {}
    for request, verdict in pending:
        if (key := _key(request)) not in known:
            known[key] = _no_place(state, request, verdict, kept.get(key))
    return [_as(known[_key(request)], verdict) for request, verdict in pending]


def _as(known: Blocked, verdict: Blocked) -> Blocked:
    """The same is told, with a time of its own."""
    figures = {**(known.figures or {}), **(verdict.figures or {})}
    return replace(verdict, code=known.code, detail=known.detail, figures=figures)


def _key(request: Request) -> Hashable:
    demand = request.demand
    shares = demand.shape.milli < MILLI_PER_GPU or demand.apart is not None
    return demand, request.customer_id if shares else None


def _why_kept(state: State, asides: Asides, requests: dict[Hashable, Request]) -> dict[Hashable, Code]:
    """For those for whom what is free would do: what stands against that."""
    found: dict[Hashable, Code] = {}
    for code, clear in ((Code.BEHIND_OTHERS, asides.clear_requests), (Code.RESERVED, asides.clear)):
        if code is Code.RESERVED and not asides:
            break
        clear()
        for key, request in requests.items():
            if key not in found and state.cluster.find(request.demand, request.customer_id) is not None:
                found[key] = code
    return found


def _no_place(state: State, request: Request, verdict: Blocked, kept: Code | None) -> Blocked:
    """`kept` is why the request does not get what is free, if it would do."""
    demand = request.demand
    found = state.cluster.shortage(demand, request.customer_id)
    verdict = replace(verdict, figures=_figures(demand, found))
    if demand.bound_host_id is not None:
        return _on_its_host(state, request, found, verdict, kept)
    if found.schedulable < demand.nodes:
        return replace(verdict, code=Code.HOST_NOT_AVAILABLE, detail=_too_few_hosts(state, demand, found))
    free = _free(demand, found, " or ".join(demand.models))
    if kept is not None:
        return replace(verdict, code=kept, detail=f"{free}, {_KEPT[kept]}.")
    return replace(verdict, detail=f"{free}; {_needed(demand)}{_lacking(demand, found)}.")


def _figures(demand: Demand, found: Shortage) -> dict[str, int]:
    """Of GPUs; for a request without them, of CPU and memory on one host."""
    shape = demand.shape
    if shape.gpus:
        return {"free": found.free_gpus, "total": found.gpus, "wanted": demand.nodes * shape.gpus}
    return {
        "free_cpu_milli": found.free_cpu_milli,
        "wanted_cpu_milli": shape.cpu_milli,
        "free_memory_bytes": found.free_memory_bytes,
        "wanted_memory_bytes": shape.memory_bytes,
    }


def _free(demand: Demand, found: Shortage, what: str = "") -> str:
    if demand.shape.gpus:
        return f"{found.free_gpus} of {found.gpus} {what + ' ' if what else ''}GPUs that fit are free"
    figures = f"{found.free_cpu_milli} milli-cores of CPU and {found.free_memory_bytes} bytes of memory"
    return f"{figures} are free, on one host at most"


def _on_its_host(state: State, request: Request, found: Shortage, verdict: Blocked, kept: Code | None) -> Blocked:
    host = state.cluster.host(request.demand.bound_host_id or 0)
    if host is None:
        detail = "The host that its volume lives on has left."
        return replace(verdict, code=Code.BOUND_HOST_UNAVAILABLE, detail=detail)
    where = f"Its volume lives on host {host.name}"
    if not host.schedulable:
        detail = f"{where}, which takes no new work now: {host.why_not}."
        return replace(verdict, code=Code.BOUND_HOST_UNAVAILABLE, detail=detail)
    if not found.schedulable:
        detail = f"{where}, which does not have the GPUs, CPU or memory asked for."
        return replace(verdict, code=Code.BOUND_HOST_UNAVAILABLE, detail=detail)
    free = f"{where}, where {_free(request.demand, found)}"
    if kept is not None:
        return replace(verdict, code=kept, detail=f"{free}, {_KEPT[kept]}.")
    detail = f"{free}; {_needed(request.demand)}{_lacking(request.demand, found)}."
    return replace(verdict, code=Code.BOUND_HOST_BUSY, detail=detail)


def _too_few_hosts(state: State, demand: Demand, found: Shortage) -> str:
    """Too few hosts that could run a part of it take new work now."""
    if found.schedulable:
        hosts = "1 host takes" if found.schedulable == 1 else f"{found.schedulable} hosts take"
        return f"Only {hosts} new work now that could run a part of it; it needs {demand.nodes}."
    if found.excluding is not None:
        return _excluded(demand, found.excluding)
    hosts_for = [state.cluster.host(host_id) for host_id in state.cluster.hosts_for(demand, schedulable=False)]
    named = [f"{host.name}: {host.why_not}" for host in hosts_for[:_NAMED_HOSTS] if host]
    if not named:
        return "No host has all that it asks for."
    more = f" and {len(hosts_for) - _NAMED_HOSTS} more" if len(hosts_for) > _NAMED_HOSTS else ""
    return f"No host that could run it takes new work now ({'; '.join(named)}{more})."


def _excluded(demand: Demand, condition: Condition) -> str:
    """What no host has at all."""
    shape, what = demand.shape, " or ".join(demand.models) or "GPU"
    sentences = {
        Condition.MODEL: f"No host has a healthy {what} now.",
        Condition.MEMORY: f"No {what} has {demand.gpu_memory_bytes} bytes of memory.",
        Condition.SELECTOR: "No host has the labels that it asks for.",
        Condition.DRIVER: f"No host has driver {'.'.join(map(str, demand.driver))} or a newer one.",
        Condition.CUDA: f"No host has CUDA {'.'.join(map(str, demand.cuda))} or a newer one.",
        Condition.BOUND_HOST: "The host that it is bound to is not there.",
        Condition.COUNT: f"No host has {shape.gpus} healthy {what} now.",
        Condition.CPU: f"No host has {shape.cpu_milli} milli-cores of CPU.",
        Condition.MEMORY_BYTES: f"No host has {shape.memory_bytes} bytes of memory.",
    }
    return sentences[condition]


def _needed(demand: Demand) -> str:
    shape = demand.shape
    if not shape.gpus:
        what = f"{shape.cpu_milli} and {shape.memory_bytes} are needed"
    elif shape.milli < MILLI_PER_GPU:
        what = f"{gpus(shape.milli)} of one is needed"
    else:
        what = f"{shape.gpus} {'is' if shape.gpus == 1 else 'are'} needed"
    if demand.nodes == 1:
        return f"{what} on one host"
    within = f" with the same {demand.within}" if demand.within else ""
    return f"{what} on each of {demand.nodes} hosts{within}"


def _lacking(demand: Demand, found: Shortage) -> str:
    """What else is short, where there are GPUs enough; or how many of them are on one host, where there are not."""
    shape = demand.shape
    if not found.with_gpus:
        scattered = found.free_gpus >= shape.gpus * demand.nodes
        return f", where {found.most_free} at most are free" if scattered else ", with its CPU and memory"
    if found.apart and found.with_room - found.apart < demand.nodes:
        others = "1 host" if found.apart == 1 else f"{found.apart} hosts"
        return f", apart from others of {demand.apart}, which are on {others} with room for it"
    if not shape.gpus:
        return ""
    short = []
    if found.free_cpu_milli < shape.cpu_milli:
        short.append(f"{shape.cpu_milli} milli-cores of CPU ({found.free_cpu_milli} at most are free)")
    if found.free_memory_bytes < shape.memory_bytes:
        short.append(f"{shape.memory_bytes} bytes of memory ({found.free_memory_bytes} at most are free)")
    if short:
        return f", with {' and '.join(short)}"
    same = " all of one model" if demand.nodes > 1 and shape.gpus and len(demand.models) != 1 else ""
    return f",{same + ',' if same else ''} with its CPU and memory"


def gpus(milli: int) -> str:
    return f"{milli / MILLI_PER_GPU:g}"
