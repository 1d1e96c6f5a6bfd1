"""Usage: windows as hosts proved them, the meters that bill them, and the intervals that their union makes."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, ExcludeConstraint
from sqlalchemy.dialects.postgresql.ranges import MultiRange
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class UsageSeries(Base):
    """Windows of one container on one device that came in one batch and count alike. Append-only, as received.

    Each begins where the one before ends: `cuts_ms` are the moments between them, one more than there are windows, and
    their numbers are `step` apart. Without a `quarantine` all of them count, whole; else none does, or there is one,
    and `billed_from_ms..billed_to_ms` is the part of it that counts. A host's sequence number that returns with other
    content is kept too, in quarantine.
    """

    __tablename__ = "usage_series"
    __table_args__ = (
        Index("ix_usage_series_sequences", "host_id", "boot_id", "last_sequence"),
        Index("ix_usage_series_quarantine", "host_id", "id", postgresql_where=text("quarantine is not null")),
        CheckConstraint("cardinality(cuts_ms) between 2 and 1048576 and step > 0", name="windows"),
        CheckConstraint("last_sequence = first_sequence + step * (cardinality(cuts_ms) - 2)", name="sequences"),
        CheckConstraint("(billed_from_ms is null) = (billed_to_ms is null)", name="billed"),
        CheckConstraint(
            "billed_from_ms is null or (quarantine is not null and cardinality(cuts_ms) = 2"
            " and billed_to_ms > billed_from_ms and billed_from_ms >= cuts_ms[1] and billed_to_ms <= cuts_ms[2])",
            name="part",
        ),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    host_id: Mapped[int] = mapped_column(ForeignKey("hosts.id"))
    boot_id: Mapped[str]
    allocation_uid: Mapped[str] = mapped_column(index=True)
    generation: Mapped[int] = mapped_column(BigId)
    container_id: Mapped[str]
    device_uuid: Mapped[str]
    milli: Mapped[int] = mapped_column(BigId)
    first_sequence: Mapped[int] = mapped_column(BigId)
    last_sequence: Mapped[int] = mapped_column(BigId)
    step: Mapped[int] = mapped_column(BigId)
    cuts_ms: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    billed_from_ms: Mapped[int | None] = mapped_column(BigId)
    billed_to_ms: Mapped[int | None] = mapped_column(BigId)
    received_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    quarantine: Mapped[str | None]


class UsageReceived(Base):
    """Which of a boot's sequence numbers have been received: mostly one range, since hosts ship in order."""

    __tablename__ = "usage_received"
    host_id: Mapped[int] = mapped_column(ForeignKey("hosts.id"), primary_key=True)
    boot_id: Mapped[str] = mapped_column(primary_key=True)
    sequences: Mapped[MultiRange[int]] = mapped_column(INT8MULTIRANGE)


class UsageWindow(Base):
    """A view of the series: one row per window, as it was received.

    `billed_from_ms..billed_to_ms` is the part that counts, null if none does. `quarantine` says why the rest does not.
    """

    __table__ = Table(
        "usage_windows",
        MetaData(),  # of its own: it is no table
        Column("id", BigId, primary_key=True),  # its series' and its place there: ascending as they came
        Column("host_id", BigId),
        Column("boot_id", Text),
        Column("sequence", BigId),
        Column("allocation_uid", Text),
        Column("generation", BigId),
        Column("container_id", Text),
        Column("device_uuid", Text),
        Column("milli", BigId),
        Column("from_ms", BigId),
        Column("to_ms", BigId),
        Column("billed_from_ms", BigId),
        Column("billed_to_ms", BigId),
        Column("received_at", Moment),
        Column("quarantine", Text),
    )
    id: Mapped[int]
    host_id: Mapped[int]
    boot_id: Mapped[str]
    sequence: Mapped[int]
    allocation_uid: Mapped[str]
    generation: Mapped[int]
    container_id: Mapped[str]
    device_uuid: Mapped[str]
    milli: Mapped[int]
    from_ms: Mapped[int]
    to_ms: Mapped[int]
    billed_from_ms: Mapped[int | None]
    billed_to_ms: Mapped[int | None]
    received_at: Mapped[datetime]
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


class UsageSum(Base):
    """What was posted for a meter in one hour (UTC) of posting times. A trigger of the postings keeps it.

    It is derivable, and `api.billing.verify` derives it: the statement need not read every posting.
    """

    __tablename__ = "usage_sums"
    customer_id: Mapped[int] = mapped_column(BigId, primary_key=True)
    hour: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    meter_id: Mapped[int] = mapped_column(ForeignKey("usage_meters.id"), primary_key=True)
    duration_ms: Mapped[int] = mapped_column(BigId)
    amount_micro: Mapped[int] = mapped_column(BigId)
