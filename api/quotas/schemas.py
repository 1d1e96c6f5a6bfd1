"""Limits as requests and replies have them."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from scheduler.quota import Level, Limits

_NULL = "null: what is behind it applies"
Limit32 = Annotated[int | None, Field(ge=0, le=10**9, description=_NULL)]
Limit64 = Annotated[int | None, Field(ge=0, le=10**18, description=_NULL)]
ModelWords = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")]
PlanName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class QuotaIn(BaseModel):
    """All limits of somebody: what is not named is no limit of theirs."""

    model_config = ConfigDict(extra="forbid")

    gpus: Limit32 = Field(None, description=f"Held at once; a share counts as one. {_NULL}")
    gpu_models: Annotated[dict[ModelWords, Annotated[int, Field(ge=0, le=10**9)]], Field(max_length=32)] = Field(
        {}, description="GPUs held at once by words of their model's name", examples=[{"H100": 4}]
    )
    cpu_milli: Limit64 = None
    memory_bytes: Limit64 = None
    allocations: Limit32 = Field(None, description=f"Environments and tasks that run at once. {_NULL}")
    tasks: Limit32 = Field(None, description=f"Tasks that run at once. {_NULL}")
    lease_s: Annotated[int | None, Field(ge=1, le=10**9)] = Field(
        None, description=f"The longest time limit, and that of who names none. {_NULL}"
    )
    queued: Limit32 = Field(None, description=f"Requests that wait. {_NULL}")
    environments: Limit32 = Field(None, description=f"That there are, stopped ones too. {_NULL}")
    array_elements: Limit32 = Field(None, description=f"Of each array of tasks. {_NULL}")
    volumes: Limit32 = None
    volume_bytes: Limit64 = Field(None, description=f"Of all volumes together. {_NULL}")
    month_micro: Limit64 = Field(
        None, description=f"For what runs in a month (UTC), in micro-units of the customer's currency. {_NULL}"
    )

    @property
    def limits(self) -> Limits:
        return Limits(**self.model_dump())


class EffectiveLimit(BaseModel):
    """The tightest limit of its kind that applies: that of which the least is left."""

    limit: str = Field(description="The name of the limit")
    gpu_model: str | None = Field(description="Of one by GPU model: its words")
    level: Level | None = Field(description="Whose it is; null: nothing limits it")
    most: int | None
    used: int | None = Field(description="Null for what limits each request by itself")


class QuotaOut(QuotaIn):
    """Somebody's own limits, and all that apply to them, each with what is used."""

    plan: str | None = Field(description="The customer's plan, which applies where the customer has no own limit")
    effective: list[EffectiveLimit]


class CustomerQuota(BaseModel):
    """What applies to you, with what is used of it."""

    plan: str | None
    effective: list[EffectiveLimit]


class CustomerPlan(BaseModel):
    model_config = ConfigDict(extra="forbid")

    plan: PlanName | None = Field(description="Null: none")


class PlanOut(QuotaIn):
    name: str
    customers: int = Field(description="How many have it")
    created_at: datetime
