"""Usage: windows as hosts proved them, the meters that bill them, and the intervals that their union makes."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, func, text
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class UsageWindow(Base):
    """Append-only, as received.

    `billed_from_ms..billed_to_ms` is the part that counts, null if none does. `quarantine` says why the rest does not.
    A host's sequence number that returns with other content is kept too, in quarantine.
    """

    __tablename__ = "usage_windows"
    __table_args__ = (
        Index(
            "uq_usage_windows_key",
            "host_id",
            "boot_id",
            "sequence",
            unique=True,
            postgresql_where=text("quarantine is distinct from 'sequence_reused'"),
        ),
        Index("ix_usage_windows_quarantine", "host_id", "id", postgresql_where=text("quarantine is not null")),
        CheckConstraint("(billed_from_ms is null) = (billed_to_ms is null)", name="billed"),
        CheckConstraint("billed_from_ms >= from_ms and billed_to_ms <= to_ms", name="within"),
        CheckConstraint("billed_to_ms > billed_from_ms", name="span"),
        CheckConstraint(
            "quarantine is not null or "
            "(billed_from_ms is not null and billed_from_ms = from_ms and billed_to_ms = to_ms)",
            name="accounted",
        ),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    host_id: Mapped[int] = mapped_column(ForeignKey("hosts.id"))
    boot_id: Mapped[str]
    sequence: Mapped[int] = mapped_column(BigId)
    allocation_uid: Mapped[str] = mapped_column(index=True)
    generation: Mapped[int] = mapped_column(BigId)
    container_id: Mapped[str]
    device_uuid: Mapped[str]
    milli: Mapped[int] = mapped_column(BigId)
    from_ms: Mapped[int] = mapped_column(BigId)
    to_ms: Mapped[int] = mapped_column(BigId)
    billed_from_ms: Mapped[int | None] = mapped_column(BigId)
    billed_to_ms: Mapped[int | None] = mapped_column(BigId)
    received_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    quarantine: Mapped[str | None]


class UsageMeter(Base):
    """The unit of billing: one device share of one generation of an allocation, at one price. Where the price
    changes in its life, a new meter begins.

    `proven_ms` is the length of the union of its windows, and `charged_micro` always the charge for exactly that time,
    rounded once: both only ever grow, in whatever order the proof arrives.
    """

    __tablename__ = "usage_meters"
    __table_args__ = (
        ForeignKeyConstraint(["allocation_id", "generation"], ["holds.allocation_id", "holds.generation"]),
        Index("uq_usage_meters_key", "allocation_id", "generation", "gpu_id", "price_from_ms", unique=True),
        CheckConstraint("proven_ms >= 0 and charged_micro >= 0", name="not_negative"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    allocation_id: Mapped[int] = mapped_column(BigId)
    generation: Mapped[int]
    gpu_id: Mapped[int] = mapped_column(ForeignKey("gpus.id"))
    # Not a foreign key: checking one would wait for whoever holds the customer's row (docs/explanation/locking.md).
    customer_id: Mapped[int] = mapped_column(BigId, index=True)
    milli: Mapped[int]
    price_version_id: Mapped[int] = mapped_column(ForeignKey("price_versions.id"))
    terms: Mapped[str]
    price_micro_per_gpu_hour: Mapped[int] = mapped_column(BigId)  # its hold's: what it charges by
    price_from_ms: Mapped[int] = mapped_column(BigId)  # where that price begins: proof before it is another meter's
    proven_ms: Mapped[int] = mapped_column(BigId, server_default=text("0"))
    charged_micro: Mapped[int] = mapped_column(BigId, server_default=text("0"))


class UsageInterval(Base):
    """A maximal stretch of proven time of a meter. The exclusion constraint keeps any moment from counting twice."""

    __tablename__ = "usage_intervals"
    __table_args__ = (
        ExcludeConstraint(
            (func.int8range(text("meter_id"), text("meter_id"), text("'[]'")), "&&"),
            (func.int8range(text("from_ms"), text("to_ms")), "&&"),
            name="ex_usage_intervals_disjoint",
            using="gist",
        ),
        Index("ix_usage_intervals_meter", "meter_id", "from_ms"),
        Index("ix_usage_intervals_customer", "customer_id", "id"),
        CheckConstraint("to_ms > from_ms", name="span"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    meter_id: Mapped[int] = mapped_column(ForeignKey("usage_meters.id"))
    customer_id: Mapped[int] = mapped_column(BigId)
    from_ms: Mapped[int] = mapped_column(BigId)
    to_ms: Mapped[int] = mapped_column(BigId)
