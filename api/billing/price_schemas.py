"""Price versions as the API shows and takes them. Money is integer micro-units."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.allocations.request import Word
from api.billing.prices import PriceUnit
from api.billing.schemas import Currency

MAX_PRICE_MICRO = 10**12

GpuModel = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+()/-]{0,99}$")]
_Permille = Annotated[int, Field(ge=0, le=1000)]


class PriceIn(BaseModel):
    """A GPU hour's price needs a `gpu_model`; only it may have discounts, be one capacity group's, or be kept for a
    time.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"anyOf": [{"required": ["gpu_model"]}, {"required": ["unit"]}]}
    )

    unit: PriceUnit = PriceUnit.GPU_HOUR
    gpu_model: GpuModel | None = Field(None, description="Of every device whose name has these words")
    price_micro: int = Field(ge=0, le=MAX_PRICE_MICRO, description="Of one unit, before discounts")
    currency: Currency | None = Field(None, description="The customer's by default, where it is theirs; else USD")
    effective_from: AwareDatetime | None = Field(None, description="From when on; now by default")
    customer: UUID | None = Field(None, description="The id of the only customer that it is for; null: everybody")
    capacity_group: Word | None = Field(None, description="Only for what is charged to this capacity group")
    preemptible_discount_permille: _Permille = Field(0, description="Off for requests that may be preempted")
    reserved_discount_permille: _Permille = Field(0, description="Off for what runs in an advance reservation")

    kept_for_s: int | None = Field(
        None, ge=3600, le=10 * 366 * 86_400, description="How long what starts at it keeps it; null: to its end"
    )

    @model_validator(mode="after")
    def _fits_its_unit(self) -> Self:
        of_gpus = self.unit is PriceUnit.GPU_HOUR
        if of_gpus != (self.gpu_model is not None):
            raise ValueError("a price of GPU hours names a `gpu_model`, and no other does")
        discounts = self.preemptible_discount_permille or self.reserved_discount_permille
        special = self.capacity_group or discounts or self.kept_for_s
        if special and not of_gpus:
            raise ValueError("only a price of GPU hours is a capacity group's, has discounts, or is kept")
        if self.customer is not None and self.capacity_group is not None:
            raise ValueError("a capacity group has its customer: name one of the two")
        return self


class PriceOut(BaseModel):
    """`customer` null: everybody's."""

    id: UUID
    unit: PriceUnit
    gpu_model: str | None
    currency: str
    price_micro: int
    customer_id: UUID | None
    customer: str | None
    capacity_group: str | None
    preemptible_discount_permille: int
    reserved_discount_permille: int
    kept_for_s: int | None
    effective_from: datetime
    created_at: datetime
