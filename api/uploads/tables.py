"""What customers have uploaded for their tasks: content-addressed, in the object store, a customer's own."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class Upload(Base):
    """A zip archive. `digest` is the SHA-256 of its bytes, hexadecimal.

    Each time that the same bytes are uploaded they get another `object_key`: so the removal of an old object can never
    hit a new one.
    """

    __tablename__ = "uploads"
    __table_args__ = (CheckConstraint("digest ~ '^[0-9a-f]{64}$' and size_bytes >= 0", name="content"),)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    object_key: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigId)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    used_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class DoomedObject(Base):
    """An object that goes at `delete_at`: of an upload that was removed, or of one on its way, unless that arrives."""

    __tablename__ = "doomed_objects"
    __table_args__ = (Index("ix_doomed_objects_delete_at", "delete_at"),)
    object_key: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    size_bytes: Mapped[int] = mapped_column(BigId)
    delete_at: Mapped[datetime] = mapped_column(Moment)


class Package(Base):
    """A name that Ray's clients gave to an upload: a hash of their own, of the files rather than of the archive."""

    __tablename__ = "packages"
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)  # "protocol/name", as in the address
    digest: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
