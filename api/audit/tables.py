"""The audit trail: one row per change by a person or a key, written in the transaction of the change."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid


class AuditEntry(Base):
    __tablename__ = "audit_entries"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"), index=True)
    actor: Mapped[str]  # "user:<uid>", "key:<uid>", "host:<uid>", "hub", "controller" or "cli"
    customer_id: Mapped[int | None] = mapped_column(BigId, index=True)
    action: Mapped[str]  # "environment.create"
    target: Mapped[str]  # "environment:<uid>"
    address: Mapped[str | None]
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
