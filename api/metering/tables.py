"""Usage: windows as hosts proved them, and the intervals that they merge into, which are what is billed."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class UsageWindow(Base):
    """Append-only, as received. `quarantine` says why a window does not count, if it does not."""

    __tablename__ = "usage_windows"
    __table_args__ = (
        Index("uq_usage_windows_key", "host_id", "boot_id", "sequence", unique=True),
        CheckConstraint("to_ms > from_ms", name="span"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    host_id: Mapped[int] = mapped_column(ForeignKey("hosts.id"))
    boot_id: Mapped[str]
    sequence: Mapped[int] = mapped_column(BigId)
    allocation_uid: Mapped[str] = mapped_column(index=True)
    generation: Mapped[int]
    container_id: Mapped[str]
    device_uuid: Mapped[str]
    milli: Mapped[int]
    from_ms: Mapped[int] = mapped_column(BigId)
    to_ms: Mapped[int] = mapped_column(BigId)
    received_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    quarantine: Mapped[str | None]


class UsageInterval(Base):
    """Proven running time of one allocation generation on one device share at one price, from disjoint proof.

    `proven_ms` is the length of the union of its windows; `charged_micro` is what was posted for it so far.
    """

    __tablename__ = "usage_intervals"
    __table_args__ = (
        Index("uq_usage_intervals_key", "allocation_id", "generation", "gpu_id", "from_ms", unique=True),
        Index("ix_usage_intervals_customer", "customer_id", "from_ms"),
        CheckConstraint("to_ms > from_ms", name="span"),
        CheckConstraint("charged_micro >= 0", name="charged"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    allocation_id: Mapped[int] = mapped_column(ForeignKey("allocations.id"))
    generation: Mapped[int]
    gpu_id: Mapped[int] = mapped_column(ForeignKey("gpus.id"))
    milli: Mapped[int]
    price_version_id: Mapped[int] = mapped_column(ForeignKey("price_versions.id"))
    from_ms: Mapped[int] = mapped_column(BigId)
    to_ms: Mapped[int] = mapped_column(BigId)
    charged_micro: Mapped[int] = mapped_column(BigId, server_default=text("0"))
