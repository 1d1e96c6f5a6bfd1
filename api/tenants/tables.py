"""Customers, their workspaces and invitations, and the platform's settings."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid


class Customer(Base):
    """`weight` is its share beside others in fair sharing; `priority_ceiling` the most that its people may ask for.

    `warn_before_s` is the run time left at which it is warned beside the times at which all are.
    """

    __tablename__ = "customers"
    __table_args__ = (
        CheckConstraint("weight > 0 and weight < 'infinity'", name="weight"),
        CheckConstraint("priority_ceiling between 0 and 1000", name="priority_ceiling"),
        Index("ix_customers_plan_id", "plan_id", postgresql_where=text("plan_id is not null")),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    name: Mapped[str] = mapped_column(unique=True)
    currency: Mapped[str] = mapped_column(server_default="USD")
    weight: Mapped[float] = mapped_column(server_default=text("1"))
    priority_ceiling: Mapped[int] = mapped_column(server_default=text("500"))
    plan_id: Mapped[int | None] = mapped_column(ForeignKey("plans.id"))  # its limits where it has none of its own
    warn_before_s: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{}")
    disabled_at: Mapped[datetime | None] = mapped_column(Moment)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class Workspace(Base):
    __tablename__ = "workspaces"
    __table_args__ = (
        Index("uq_workspaces_customer_name", "customer_id", "name", unique=True),
        Index("uq_workspaces_one_default", "customer_id", unique=True, postgresql_where=text("is_default")),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    name: Mapped[str]
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class Setting(Base):
    """A platform setting that an administrator may change while it runs, such as `self_registration`."""

    __tablename__ = "settings"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSONB)


class Invitation(Base):
    __tablename__ = "invitations"
    __table_args__ = (CheckConstraint("role in ('customer_owner', 'customer_member')", name="role"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    email: Mapped[str]
    role: Mapped[str]
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    expires_at: Mapped[datetime] = mapped_column(Moment)
    accepted_at: Mapped[datetime | None] = mapped_column(Moment)
    revoked_at: Mapped[datetime | None] = mapped_column(Moment)
