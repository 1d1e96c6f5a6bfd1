"""What the lines of a bill say. Every name has to be there, and no other."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from remotegpu.bill.lines import BadLine, Line

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0)]
Permille = Annotated[int, Meta(ge=0, le=1000)]
Terms = Literal["on_demand", "preemptible", "reserved"]

Group = tuple[str, int, str]
"""Allocation, generation, device: of these, no moment is billed twice."""


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Position(_Body, frozen=True):
    sequence: Count
    hash: Hash


class Key(_Body, frozen=True):
    algorithm: Literal["Ed25519"]
    id: Hash
    public_key: str


class Bill(_Body, frozen=True):
    format: Literal["remotegpu-bill"]
    version: Literal[1]
    customer: str
    currency: str
    period: str
    from_ms: Count
    to_ms: Count
    exported_ms: Count
    closed: bool
    chain: Position
    opening: dict[str, int]
    keys: list[Key]


class PriceVersion(_Body, frozen=True):
    id: str
    currency: str
    effective_from_us: int
    gpu_model: str | None
    unit: str
    price_micro: Count
    preemptible_discount_permille: Permille
    reserved_discount_permille: Permille


class Meter(_Body, frozen=True):
    allocation: str
    currency: str
    customer: str
    device: str
    device_model: str
    environment: str | None
    generation: Count
    milli: Count
    price_from_ms: Count
    price_micro_per_gpu_hour: Count
    price_version: str
    task: str | None
    terms: Terms
    unit: Literal["gpu_hour"]

    @property
    def group(self) -> Group:
        return self.allocation, self.generation, self.device


class MeterLine(_Body, frozen=True):
    id: Hash
    meter: Meter
    sealed_before_ms: Count
    posted_before_ms: Count


class Record(_Body, frozen=True):
    customer: str
    sequence: Count
    previous: Hash
    meter: Hash
    from_ms: Count
    to_ms: Count
    proven_ms: Count
    sealed_ms: Count


class RecordLine(_Body, frozen=True):
    hash: Hash
    record: Record


class Window(_Body, frozen=True):
    host: str
    boot: str
    sequence: int
    allocation: str
    generation: Count
    device: str
    milli: Count
    from_ms: Count
    to_ms: Count
    billed_from_ms: Count
    billed_to_ms: Count
    quarantine: str | None

    @property
    def group(self) -> Group:
        return self.allocation, self.generation, self.device


class Posting(_Body, frozen=True):
    account: str
    amount_micro: int
    duration_ms: Annotated[int, Meta(gt=0)] | None
    meter: Hash | None


class Transaction(_Body, frozen=True):
    at_us: int
    id: str
    kind: str
    postings: list[Posting]


class Totals(_Body, frozen=True):
    amount_micro: int
    duration_ms: Count
    closing: dict[str, int]


class Head(_Body, frozen=True):
    closed: bool
    customer: str
    hash: Hash
    key: Hash
    period: str
    sequence: Count
    signed_ms: Count


class HeadLine(_Body, frozen=True):
    head: Head
    signature: str


class End(_Body, frozen=True):
    key: Hash
    signature: str


Body = TypeVar("Body", bound=_Body)


def read(line: Line, kind: type[Body]) -> Body:
    """A line's body.

    Raises:
        BadLine: it does not have the names and kinds of values of its kind.
    """
    try:
        return msgspec.convert(line.body, kind, strict=True)
    except msgspec.ValidationError as error:
        raise BadLine(line.number, f"it is no {line.kind} line: {error}") from error
