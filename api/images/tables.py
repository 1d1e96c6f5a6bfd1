"""The images that tenants may start, seeded from `images/catalogue.yaml`."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid


class Image(Base):
    __tablename__ = "images"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    name: Mapped[str] = mapped_column(unique=True)
    framework: Mapped[str]
    version: Mapped[str]
    cuda: Mapped[str | None]
    reference: Mapped[str]
    ports: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    description: Mapped[str] = mapped_column(server_default="")
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
