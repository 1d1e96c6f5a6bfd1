"""What the endpoints about sealed usage answer."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel


class BillKeyOut(BaseModel):
    """A public key. `id` is the SHA-256 of its 32 raw bytes, `public_key` the key in PEM."""

    id: str
    algorithm: Literal["Ed25519"]
    public_key: str
    created_at: datetime


class BillKeysOut(BaseModel):
    """Every key that has signed bills, the newest first."""

    keys: list[BillKeyOut]


class HeadBody(BaseModel):
    """What a head's signature covers, in canonical form: see the format of a bill."""

    closed: bool
    customer: str
    hash: str
    key: str
    period: str
    sequence: int
    signed_ms: int


class HeadOut(BaseModel):
    """The end of your chain of usage records as of a moment. `signature` is in base64."""

    head: HeadBody
    signature: str
