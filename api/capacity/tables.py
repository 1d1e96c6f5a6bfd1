"""Capacity groups: customers' guaranteed shares of a pool, which a cohort lends among its members."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid


class CapacityGroup(Base):
    """Figures in thousandths of GPUs; null is no limit. `scheduler.views.CapacityGroup` says what they mean."""

    __tablename__ = "capacity_groups"
    __table_args__ = (
        CheckConstraint(
            "nominal_milli >= 0 and borrowing_limit_milli >= 0 and lending_limit_milli >= 0", name="figures"
        ),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    name: Mapped[str] = mapped_column(unique=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    cohort: Mapped[str | None]
    gpu_model: Mapped[str | None]  # of all that is charged to it, and the same in the whole cohort; null: any
    nominal_milli: Mapped[int] = mapped_column(BigId)
    borrowing_limit_milli: Mapped[int | None] = mapped_column(BigId)
    lending_limit_milli: Mapped[int | None] = mapped_column(BigId)
    reclaim_within_cohort: Mapped[bool] = mapped_column(server_default=text("true"))
    preempt_lower_priority: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
