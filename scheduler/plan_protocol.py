"""What-if: when and where would a request start? Asked of the controller, whose engine knows, without queueing it.

`POST /v1/plan` on the controller's socket takes a `PlanQuestion` and answers a `PlanAnswer`, as JSON: field by field,
times in ISO 8601. Neither end keeps anything of it.
"""

from dataclasses import dataclass
from enum import StrEnum

from scheduler.ports import WaitReason
from scheduler.views import Part, Request


class When(StrEnum):
    NOW = "now"  # `parts` says where
    LATER = "later"  # at the reason's `eta`, on what its `eta_basis` says; `parts` if the place is known too
    UNKNOWN = "unknown"  # it waits, and nobody can say for how long
    NEVER = "never"  # whatever ends: the reason says what stands against it


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """A request as it would be queued now, with the allocation id 0 and no uid. The store's limits are not asked for:
    quota and balance are told beside the answer."""

    request: Request


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """`reason` is why it would wait, as a queued request would be told; None exactly if it starts now."""

    when: When
    reason: WaitReason | None = None
    parts: tuple[Part, ...] = ()
