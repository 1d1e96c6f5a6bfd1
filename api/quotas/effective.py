"""The limits that apply on a path, the tightest of each kind, with what is used of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.clock import utc_now
from api.quotas.limits import Path, limits_of
from api.quotas.schemas import EffectiveLimit
from api.quotas.usage import COUNTED, Use, count, load_use
from scheduler.quota import Limits, Scope, of_words

_KINDS = (
    "gpus",
    "cpu_milli",
    "memory_bytes",
    "allocations",
    "tasks",
    "lease_s",
    "queued",
    "environments",
    "array_elements",
    "volumes",
    "volume_bytes",
    "month_micro",
)


@dataclass(frozen=True, slots=True)
class _Figures:
    """What is used on a path."""

    use: Use
    counts: Mapping[str, Mapping[Scope, int]]

    def of(self, kind: str, scope: Scope) -> int | None:
        """None for what limits each request by itself."""
        if kind in ("lease_s", "array_elements"):
            return None
        if kind in self.counts:
            return self.counts[kind][scope]
        if kind == "month_micro":
            return self.use.spent_micro[scope]
        held: int = getattr(self.use.held[scope], kind)
        return held


def effective(session: Session, path: Path) -> list[EffectiveLimit]:
    """One of each kind, and one for each GPU model that is limited."""
    limits = limits_of(session, path.customer_id)
    use = load_use(session, {path.customer_id: limits}, now=utc_now(), everything=True)
    figures = _Figures(use, {what: count(session, path, what) for what in COUNTED})
    return list(_effective(limits.on(path), path, figures))


def _effective(limited: Sequence[tuple[Scope, Limits]], path: Path, figures: _Figures) -> Iterator[EffectiveLimit]:
    customer = path.scopes[0]
    for kind in _KINDS:
        named = [(scope, limit) for scope, limits in limited if (limit := getattr(limits, kind)) is not None]
        found = [_line(kind, None, scope, limit, figures.of(kind, scope)) for scope, limit in named]
        nothing = EffectiveLimit(limit=kind, gpu_model=None, level=None, most=None, used=figures.of(kind, customer))
        yield min(found, key=_left, default=nothing)
    for words in sorted({words for _, limits in limited for words in limits.gpu_models}):
        lines = (
            _line("gpu_models", words, scope, limits.gpu_models[words], of_words(figures.use.gpus[scope], words))
            for scope, limits in limited
            if words in limits.gpu_models
        )
        yield min(lines, key=_left)


def _line(kind: str, model: str | None, scope: Scope, limit: int, used: int | None) -> EffectiveLimit:
    return EffectiveLimit(limit=kind, gpu_model=model, level=scope.level, most=limit, used=used)


def _left(line: EffectiveLimit) -> int:
    return (line.most or 0) - (line.used or 0)
