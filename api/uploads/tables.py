"""What customers have uploaded for their tasks: content-addressed, in the object store, a customer's own."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class Upload(Base):
    """A zip archive. `digest` is the SHA-256 of its bytes, hexadecimal; the object's key is made of both columns."""

    __tablename__ = "uploads"
    __table_args__ = (CheckConstraint("digest ~ '^[0-9a-f]{64}$' and size_bytes >= 0", name="content"),)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigId)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    used_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class Package(Base):
    """A name that Ray's clients gave to an upload: a hash of their own, of the files rather than of the archive."""

    __tablename__ = "packages"
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)  # "protocol/name", as in the address
    digest: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
