"""Why an environment waits and when it may start, in words for its user."""

from dataclasses import dataclass
from datetime import UTC, datetime

from hub.platform_client import Wait

_BASES = {
    "reservation": "reservation",
    "limits": "when time limits end",
    "estimate": "estimate",
    "history": "estimate from history",
}
_SURE = ("reservation", "limits")
_NOT_LOOKED_AT = "queued"


@dataclass(frozen=True, slots=True)
class Expected:
    """When it may start: `at` is None where nobody can say. Pages show the time in the browser's own zone."""

    at: datetime | None
    lead: str  # up to the time
    basis: str

    @property
    def iso(self) -> str:
        return self.at.isoformat() if self.at is not None else ""

    @property
    def utc(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} UTC" if self.at is not None else ""

    def sentence(self) -> str:
        if self.at is None:
            return self.lead
        return f"{self.lead} {self.at:%H:%M} UTC ({self.basis})."


def place_and_reason(wait: Wait | None) -> str:
    """One sentence: the place in the queue and the reason."""
    if wait is None:
        return "Waiting for the platform to place this environment."
    place = f"number {wait.position} in the queue: " if wait.position is not None else ""
    return f"Waiting, {place}{wait.detail}"


def expected_start(wait: Wait | None) -> Expected | None:
    """None before the scheduler has looked at it."""
    if wait is None or wait.code == _NOT_LOOKED_AT:
        return None
    if wait.eta is None:
        return Expected(None, "When it starts is unknown.", "")
    lead = "Expected to start at" if wait.eta_basis in _SURE else "Expected to start about"
    return Expected(wait.eta.astimezone(UTC), lead, _BASES.get(wait.eta_basis, "estimate"))


def waiting_message(wait: Wait | None) -> str:
    """Both, where only plain text fits."""
    expected = expected_start(wait)
    return f"{place_and_reason(wait)} {expected.sentence()}" if expected is not None else place_and_reason(wait)
