"""What-if over HTTP: when and where a request would start, and what it would cost."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.allocations.request import MAX_NODES, LabelName, ResourceRequest
from api.environments.schemas import DeviceOut, WaitOut
from scheduler.plan_protocol import When
from scheduler.prices import PriceTerms


class PlanIn(ResourceRequest):
    """A request as it would be queued; on each of `nodes` hosts."""

    model_config = ConfigDict(extra="forbid")

    nodes: int = Field(1, ge=1, le=MAX_NODES)
    within: LabelName | None = Field(None, description="The host label whose value all hosts must share")
    image: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")] | None = Field(
        None, description="Hosts that have it already are preferred"
    )
    workspace: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")] | None = None


class PlannedHost(BaseModel):
    host: str
    devices: list[DeviceOut]


class CostOut(BaseModel):
    """At the price of now, which a request gets when it starts."""

    gpu_model: str
    currency: str
    terms: PriceTerms
    price_micro_per_gpu_hour: int = Field(description="On these terms, after their discount")
    kept_for_s: int | None = Field(description="From its start; null: to its end")
    micro_per_hour: int
    micro_for_limit: int | None = Field(description="For its whole time limit; null: it has none")


class LimitOut(BaseModel):
    """A limit of the customer's that stands against it now."""

    code: Literal["quota", "balance"]
    detail: str


class PlanOut(BaseModel):
    """`wait` is what it would be told in the queue; null if it starts now."""

    when: When
    wait: WaitOut | None
    eta: datetime | None = Field(description="`now`: this moment; `later`: see the `eta_basis` of `wait`; else null")
    hosts: list[PlannedHost]
    costs: list[CostOut] = Field(description="For the devices named; else for each model that it could get")
    limits: list[LimitOut] = Field(description="Empty: quota and balance allow it now")
