"""Named volumes of a workspace: each lies on one host, and binds to it what mounts it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid

DELETING = "delete_at is not null and deleted_at is null"


class Volume(Base):
    """`host_id` is null until something that mounts it runs for the first time. Its name in Docker is made of `uid`."""

    __tablename__ = "volumes"
    __table_args__ = (
        CheckConstraint("size_bytes > 0", name="size"),
        Index("uq_volumes_name", "workspace_id", "name", unique=True, postgresql_where=text("deleted_at is null")),
        Index("ix_volumes_deleting", "id", postgresql_where=text(DELETING)),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigId)
    host_id: Mapped[int | None] = mapped_column(ForeignKey("hosts.id"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    delete_at: Mapped[datetime | None] = mapped_column(Moment)  # somebody asked for its deletion
    deleted_at: Mapped[datetime | None] = mapped_column(Moment)  # its host has confirmed

    @property
    def docker_name(self) -> str:
        return f"rg-vol-{self.uid}"
