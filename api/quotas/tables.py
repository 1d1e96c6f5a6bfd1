"""What a customer may hold at once, and how much may wait."""

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId


class Quota(Base):
    """Null is no limit of its own: the platform's default from the settings applies."""

    __tablename__ = "quotas"
    __table_args__ = (
        CheckConstraint(
            "coalesce(gpus, 0) >= 0 and coalesce(allocations, 0) >= 0 and coalesce(queued, 0) >= 0", name="limits"
        ),
    )
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    gpus: Mapped[int | None]
    cpu_milli: Mapped[int | None] = mapped_column(BigId)
    memory_bytes: Mapped[int | None] = mapped_column(BigId)
    allocations: Mapped[int | None]  # that hold something at once
    queued: Mapped[int | None]
