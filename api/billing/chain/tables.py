"""Usage as it is sealed: a hash chain of records per customer, the heads that are signed, and the keys that sign."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, func, text
from sqlalchemy.dialects.postgresql import INT8MULTIRANGE, ExcludeConstraint
from sqlalchemy.dialects.postgresql.ranges import MultiRange
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class SealedMeter(Base):
    """What a meter is, in canonical form as it was when its first record was written, and how far it is sealed.

    `body` and `digest` never change. `covered` is the union of the meter's records, `sealed_ms` its length: they save
    the sealer from reading all records again.
    """

    __tablename__ = "sealed_meters"
    __table_args__ = (Index("ix_sealed_meters_customer", "customer_id"),)
    meter_id: Mapped[int] = mapped_column(ForeignKey("usage_meters.id"), primary_key=True)
    customer_id: Mapped[int] = mapped_column(BigId)
    digest: Mapped[bytes] = mapped_column(unique=True)
    body: Mapped[str]
    covered: Mapped[MultiRange[int]] = mapped_column(INT8MULTIRANGE)
    sealed_ms: Mapped[int] = mapped_column(BigId)


class UsageRecord(Base):
    """Append-only. A stretch of a meter's proven time, as link `sequence` of its customer's chain.

    `hash` is the digest of all that the record says, which includes `previous`, the hash of the record before.
    `proven_ms` is how much the meter's records cover with this one.
    """

    __tablename__ = "usage_records"
    __table_args__ = (
        ExcludeConstraint(
            (func.int8range(text("meter_id"), text("meter_id"), text("'[]'")), "&&"),
            (func.int8range(text("from_ms"), text("to_ms")), "&&"),
            name="ex_usage_records_disjoint",
            using="gist",
        ),
        Index("ix_usage_records_meter", "meter_id", "sequence"),
        CheckConstraint("to_ms > from_ms and sequence > 0", name="span"),
        CheckConstraint("length(hash) = 32 and length(previous) = 32", name="hashes"),
    )
    # Not a foreign key: checking one would wait for whoever holds the customer's row (docs/explanation/locking.md).
    customer_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    meter_id: Mapped[int] = mapped_column(ForeignKey("sealed_meters.meter_id"))
    from_ms: Mapped[int] = mapped_column(BigId)
    to_ms: Mapped[int] = mapped_column(BigId)
    proven_ms: Mapped[int] = mapped_column(BigId)
    sealed_ms: Mapped[int] = mapped_column(BigId)
    previous: Mapped[bytes]
    hash: Mapped[bytes]


class BillKey(Base):
    """A key that signs heads and bills. The newest one signs; the public halves of all stay published.

    The private half is sealed with the secret `signing_key_secret`.
    """

    __tablename__ = "bill_keys"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    kid: Mapped[str] = mapped_column(unique=True)
    public_key: Mapped[bytes]  # the 32 bytes of an Ed25519 key
    private_sealed: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class UsageHead(Base):
    """Append-only. The end of a customer's chain as of a moment, signed for a period. `closed`: for good."""

    __tablename__ = "usage_heads"
    __table_args__ = (
        ForeignKeyConstraint(["key_id"], ["bill_keys.id"]),
        Index("ix_usage_heads_customer", "customer_id", "id"),
        Index("uq_usage_heads_position", "customer_id", "period", "sequence", "closed", unique=True),
        Index("uq_usage_heads_closed", "customer_id", "period", unique=True, postgresql_where=text("closed")),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    customer_id: Mapped[int] = mapped_column(BigId)
    period: Mapped[str]  # 2026-11
    sequence: Mapped[int] = mapped_column(BigId)
    hash: Mapped[bytes]
    closed: Mapped[bool]
    signed_ms: Mapped[int] = mapped_column(BigId)
    key_id: Mapped[int] = mapped_column(BigId)
    signature: Mapped[bytes]
