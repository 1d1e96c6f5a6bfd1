"""What the billing endpoints take and answer. Money is integer micro-units, durations are milliseconds."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from api.billing.journal import JournalKind
from scheduler.prices import PriceTerms

MAX_TOP_UP_MICRO = 10**15

Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Note = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]


WarnBefore = Annotated[int, Field(ge=60, le=30 * 86_400)]


class TopUpIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount_micro: int = Field(ge=1, le=MAX_TOP_UP_MICRO)
    note: Note = ""


class RefundIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount_micro: int = Field(ge=1, le=MAX_TOP_UP_MICRO)
    note: Note = ""


class TransferIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: UUID = Field(description="The customer who gets it")
    amount_micro: int = Field(ge=1, le=MAX_TOP_UP_MICRO)
    note: Note = ""


class AdjustmentIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount_micro: int = Field(ge=-MAX_TOP_UP_MICRO, le=MAX_TOP_UP_MICRO, description="Negative: it is taken")
    reason: Reason = Field(description="The customer reads it in their journal")


class CreditLimitIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    credit_limit_micro: int = Field(ge=0, le=MAX_TOP_UP_MICRO, description="0: they pay beforehand")


class PromotionIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount_micro: int = Field(ge=1, le=MAX_TOP_UP_MICRO)
    expires_at: AwareDatetime = Field(description="What is unspent then goes back")
    note: Note = ""


class PromotionOut(BaseModel):
    """Credit that is spent before all other money. `left_micro` is unspent; `closed_at`: since when nothing is left."""

    id: UUID
    currency: str
    amount_micro: int
    left_micro: int
    note: str
    granted_at: datetime
    expires_at: datetime
    closed_at: datetime | None


class BalanceOut(BaseModel):
    """`balance_micro` is what is theirs (negative: what they owe), `held_micro` the part of it that is held for running
    work. `available_micro` may be spent: `balance_micro - held_micro + credit_limit_micro`.
    """

    currency: str
    balance_micro: int
    held_micro: int
    available_micro: int
    credit_limit_micro: int


class ThresholdsIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    warn_before_s: list[WarnBefore] = Field(
        max_length=10, description="Run time left at which you are warned, beside a day, an hour and 10 minutes"
    )


class WarningOut(BaseModel):
    """That the money lasted no longer than `threshold_s` for what ran; since `cleared_at` it lasts longer again."""

    id: UUID
    threshold_s: int
    raised_at: datetime
    runs_out_at: datetime
    cleared_at: datetime | None


class RunTimeOut(BaseModel):
    """How long the money lasts for all that runs at present. `runs_out_at` is null where nothing that costs runs."""

    currency: str
    available_micro: int
    spending_micro_per_hour: int
    runs_out_at: datetime | None
    warn_before_s: list[int]
    warnings: list[WarningOut]


class MovementOut(BalanceOut):
    """The journal transaction, and the balance after it."""

    id: UUID
    amount_micro: int


class UsageOut(BaseModel):
    """An interval of proven running time on one device. The amounts of a device's intervals add up to its charge."""

    model_config = ConfigDict(populate_by_name=True)

    environment_id: UUID | None
    environment: str | None
    task_id: UUID | None
    task: str | None
    allocation_id: UUID
    generation: int
    gpu_uuid: str
    gpu_model: str
    simulated: bool
    milli: int
    start: datetime = Field(alias="from")
    end: datetime = Field(alias="to")
    duration_ms: int
    amount_micro: int
    price_version: UUID
    terms: PriceTerms
    price_micro_per_gpu_hour: int
    currency: str


class StatementLine(BaseModel):
    """What one allocation was charged in the period, per GPU model and price."""

    environment_id: UUID | None
    environment: str | None
    task_id: UUID | None
    task: str | None
    allocation_id: UUID
    gpu_model: str
    price_version: UUID
    terms: PriceTerms
    price_micro_per_gpu_hour: int
    currency: str
    duration_ms: int
    amount_micro: int


class StatementTotals(BaseModel):
    """`opening_balance_micro + top_ups_micro + refunds_micro + transfers_micro + adjustments_micro + promotions_micro -
    amount_micro = closing_balance_micro`, to the unit. What was taken from the customer is negative.
    """

    opening_balance_micro: int
    top_ups_micro: int
    refunds_micro: int
    transfers_micro: int
    adjustments_micro: int
    promotions_micro: int
    amount_micro: int
    duration_ms: int
    closing_balance_micro: int


class StatementOut(BaseModel):
    """The totals are of the whole period, the lines one page of it."""

    model_config = ConfigDict(populate_by_name=True)

    start: datetime = Field(alias="from")
    end: datetime = Field(alias="to")
    currency: str
    totals: StatementTotals
    lines: list[StatementLine]
    next_cursor: str | None


class PostingOut(BaseModel):
    account: str
    amount_micro: int
    duration_ms: int | None


class JournalOut(BaseModel):
    """A journal transaction: its postings sum to zero. `note` is what was said with it."""

    id: UUID
    at: datetime
    kind: JournalKind
    note: str | None
    postings: list[PostingOut]
