"""What the billing endpoints take and answer. Money is integer micro-units, durations are milliseconds."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.billing.journal import JournalKind
from scheduler.prices import PriceTerms

MAX_TOP_UP_MICRO = 10**15

Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Note = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")]


class TopUpIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount_micro: int = Field(ge=1, le=MAX_TOP_UP_MICRO)
    note: Note = ""


class BalanceOut(BaseModel):
    """`balance_micro` is what is available and what is held for running work, together."""

    currency: str
    balance_micro: int
    held_micro: int
    available_micro: int


class TopUpOut(BalanceOut):
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
    """`opening_balance_micro + top_ups_micro - amount_micro = closing_balance_micro`, to the unit."""

    opening_balance_micro: int
    top_ups_micro: int
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
    """A journal transaction: its postings sum to zero."""

    id: UUID
    at: datetime
    kind: JournalKind
    postings: list[PostingOut]
