"""Secrets of a workspace: sealed with a key outside the database, and never shown again."""

from datetime import datetime

from sqlalchemy import ForeignKey, Identity, LargeBinary, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class Secret(Base):
    __tablename__ = "secrets"
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(BigId, Identity(always=True), unique=True)  # for lists
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_by: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
