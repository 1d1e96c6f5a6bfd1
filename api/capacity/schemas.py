"""Capacity groups as the API shows and takes them. Figures are thousandths of GPUs."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from api.allocations.request import ModelName, Word
from api.identity.schemas import Request
from scheduler.gpu_model import words


def _names_a_model(text: str) -> str:
    if not words(text):
        raise ValueError("it is no more than the vendor's name, which no request could match")
    return text


_Milli = Annotated[int, Field(ge=0, le=10**12)]
_Limit = Annotated[int | None, Field(ge=0, le=10**12, description="null: no limit")]


class CapacityGroupCreate(Request):
    """A guaranteed share of a pool. Groups of one cohort lend each other what they do not use."""

    name: Word = Field(description="Unique in the whole platform; requests name it")
    customer: UUID = Field(description="The id of the customer that owns it")
    cohort: Word | None = Field(None, description="null: it neither lends nor borrows")
    gpu_model: Annotated[ModelName, AfterValidator(_names_a_model)] | None = Field(
        None, description="All that is charged to it is of this model, for good; the cohort's groups have the same"
    )
    nominal_milli: _Milli = Field(description="What is its own")
    borrowing_limit_milli: _Limit = None
    lending_limit_milli: _Limit = None
    reclaim_within_cohort: bool = Field(True, description="What others have borrowed is taken back by preemption")
    preempt_lower_priority: bool = Field(True, description="Higher priority preempts lower priority inside the group")


class CapacityGroupChange(Request):
    """Only what is named changes."""

    cohort: Word | None = None
    nominal_milli: _Milli = 0
    borrowing_limit_milli: _Limit = None
    lending_limit_milli: _Limit = None
    reclaim_within_cohort: bool = True
    preempt_lower_priority: bool = True


class CapacityGroupOut(BaseModel):
    id: UUID
    name: str
    customer_id: UUID
    customer: str
    cohort: str | None
    gpu_model: str | None
    nominal_milli: int
    borrowing_limit_milli: int | None
    lending_limit_milli: int | None
    reclaim_within_cohort: bool
    preempt_lower_priority: bool
    held_milli: int = Field(description="Charged to it by what is placed or runs")
    waiting_milli: int = Field(description="Asked of it by what waits")
    created_at: datetime
