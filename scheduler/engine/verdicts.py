"""Verdicts on requests that do not start, each with a sentence for people. `no_place` has those about hosts."""

from dataclasses import replace
from datetime import datetime

from scheduler.engine.blocked import Blocked, Code, Epoch
from scheduler.engine.kept import Kept
from scheduler.engine.lookahead import Start
from scheduler.engine.no_place import gpus
from scheduler.engine.state import State
from scheduler.views import Request


def group_is_full(state: State, request: Request, epoch: Epoch, until: datetime) -> Blocked:
    milli = request.demand.gpu_milli
    available = max(0, state.capacity.available(request.group, milli, beside_kept=False) or 0)
    most = state.capacity.most(request.group) or 0
    figures = {"available_milli": available, "wanted_milli": milli, "most_milli": most}
    if state.capacity.is_open(request.group):
        detail = f"{gpus(available)} GPUs that are guaranteed to nobody are left; {gpus(milli)} are needed."
    elif milli > most:
        detail = f"Capacity group {request.group} may never use more than {gpus(most)} GPUs; {gpus(milli)} are needed."
    else:
        detail = (
            f"Capacity group {request.group} may use {gpus(available)} more GPUs now, with what it may borrow; "
            f"{gpus(milli)} are needed."
        )
    if milli <= available:
        detail = "What its capacity group may use now is kept for who came before."
    return Blocked(Code.CAPACITY_GROUP, detail, epoch, figures, until)


def preempting(kept: Kept, epoch: Epoch, now: datetime, until: datetime) -> Blocked:
    count = len(kept.victims)
    whose = "1 allocation gives" if count == 1 else f"{count} allocations give"
    detail = f"{whose} way to it now." if count else "What ends now makes room for it."
    verdict = Blocked(Code.PREEMPTING, detail, epoch, {"victims": count} if count else None, until)
    return replace(verdict, eta=kept.since, eta_basis="limits") if kept.since > now else verdict


def patient(epoch: Epoch, until: datetime) -> Blocked:
    detail = "It waits a moment for room to come by itself, before others have to give way to it."
    return Blocked(Code.PREEMPTING, detail, epoch, until=until)


def with_start(verdict: Blocked, start: Start) -> Blocked:
    if start.sooner is None:
        return replace(verdict, eta=start.at, eta_basis="limits" if start.certain else "estimate")
    figures = {"latest_at": round(start.at.timestamp())}  # in seconds since the epoch
    return replace(verdict, figures=figures, eta=start.sooner, eta_basis="estimate")
