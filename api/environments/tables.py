"""Environments: JupyterLab servers with GPUs, each one a named server of the Hub."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid
from scheduler.states import EnvironmentDesired, EnvironmentState


class Environment(Base):
    """`name` is the Hub's server name. `host_id` is where its /home volume lives, once it has one."""

    __tablename__ = "environments"
    __table_args__ = (
        CheckConstraint(f"desired in ({', '.join(repr(str(s)) for s in EnvironmentDesired)})", name="desired"),
        CheckConstraint(f"observed in ({', '.join(repr(str(s)) for s in EnvironmentState)})", name="observed"),
        Index("uq_environments_name", "user_id", "name", unique=True, postgresql_where=text("observed <> 'deleted'")),
        Index(
            "ix_environments_unsettled",
            "id",
            postgresql_where=text("observed not in ('stopped', 'failed', 'deleted') or desired = 'deleted'"),
        ),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    gpus: Mapped[int]
    cpu_milli: Mapped[int] = mapped_column(BigId)
    memory_bytes: Mapped[int] = mapped_column(BigId)
    disk_bytes: Mapped[int] = mapped_column(BigId)
    # How it is queued and what it may run on, as `api.allocations.request.SchedulingOptions`, without the defaults.
    scheduling: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    desired: Mapped[str] = mapped_column(server_default=EnvironmentDesired.RUNNING)
    observed: Mapped[str] = mapped_column(server_default=EnvironmentState.QUEUED)
    allocation_id: Mapped[int | None] = mapped_column(ForeignKey("allocations.id"), index=True)  # the current or last
    host_id: Mapped[int | None] = mapped_column(ForeignKey("hosts.id"))
    last_error: Mapped[str | None]
    # Rises with every change of this row, and of its allocation's as far as its views show it (by triggers).
    version: Mapped[int] = mapped_column(BigId, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    deleted_at: Mapped[datetime | None] = mapped_column(Moment)


class EnvironmentEvent(Base):
    """Append-only: one row per transition of what was observed, and per change of what is desired."""

    __tablename__ = "environment_events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    environment_id: Mapped[int] = mapped_column(ForeignKey("environments.id"), index=True)
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    actor: Mapped[str]
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")
