"""Where the output of attempts lies in the object store."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class LogChunk(Base):
    """Some output of an attempt, compressed, as one object.

    Positions count the bytes that the command wrote, from the attempt's begin, also those that were dropped: so they
    name a place for good. `rank` is the node's in a gang.
    """

    __tablename__ = "log_chunks"
    __table_args__ = (CheckConstraint("position >= 0 and length >= 0 and size_bytes >= 0", name="range"),)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("task_attempts.id"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, server_default=text("0"))
    position: Mapped[int] = mapped_column(BigId, primary_key=True)  # of its first byte
    length: Mapped[int] = mapped_column(BigId)  # bytes of output that it covers, those dropped included
    size_bytes: Mapped[int] = mapped_column(BigId)  # of the object
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
