"""What customers, workspaces and users may have, and the plans that say so for many customers."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment

LIMITS = (
    "gpus",
    "cpu_milli",
    "memory_bytes",
    "allocations",
    "queued",
    "tasks",
    "lease_s",
    "environments",
    "array_elements",
    "volumes",
    "volume_bytes",
    "month_micro",
)
"""The columns of limits that are numbers, as the fields of `scheduler.quota.Limits`."""
_NOT_NEGATIVE = f"least({', '.join(LIMITS)}) >= 0"


class LimitColumns:
    """Null is no limit of its own: what is behind it applies. `scheduler.quota.Limits` says what each is."""

    gpus: Mapped[int | None]
    cpu_milli: Mapped[int | None] = mapped_column(BigId)
    memory_bytes: Mapped[int | None] = mapped_column(BigId)
    allocations: Mapped[int | None]  # that hold something at once
    queued: Mapped[int | None]
    tasks: Mapped[int | None]  # that hold something at once
    gpu_models: Mapped[dict[str, int]] = mapped_column(JSONB, server_default="{}")  # by words of the model's name
    lease_s: Mapped[int | None]
    environments: Mapped[int | None]  # that there are
    array_elements: Mapped[int | None]
    volumes: Mapped[int | None]
    volume_bytes: Mapped[int | None] = mapped_column(BigId)
    month_micro: Mapped[int | None] = mapped_column(BigId)


class Plan(LimitColumns, Base):
    """Limits for all customers that have it, where they have none of their own."""

    __tablename__ = "plans"
    __table_args__ = (CheckConstraint(_NOT_NEGATIVE, name="limits"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class Quota(LimitColumns, Base):
    """Of a customer; or of one of its workspaces or users, beside the customer's: the tightest applies."""

    __tablename__ = "quotas"
    __table_args__ = (
        CheckConstraint(_NOT_NEGATIVE, name="limits"),
        CheckConstraint("num_nonnulls(workspace_id, user_id) <= 1", name="one_level"),
        Index(
            "uq_quotas_owner", "customer_id", "workspace_id", "user_id", unique=True, postgresql_nulls_not_distinct=True
        ),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    workspace_id: Mapped[int | None] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
