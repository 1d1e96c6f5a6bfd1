"""Where the output of attempts lies in the object store."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment

MANY, FEW = 64, 8
"""So many small chunks of a log are merged while it goes on, and so many once it is whole."""
TO_MERGE = f"unmerged >= {MANY} or (is_whole and unmerged >= {FEW})"


class Log(Base):
    """The output of one node of an attempt: how much has come in, and whether that is all.

    Positions count the bytes that the command wrote, from the attempt's begin, also those that were dropped: so they
    name a place for good. `rank` is the node's in a gang.
    """

    __tablename__ = "logs"
    __table_args__ = (
        CheckConstraint("rank >= 0 and position >= 0 and head >= 0", name="range"),
        CheckConstraint("received_bytes >= kept_bytes and kept_bytes >= 0", name="bytes"),
        Index("ix_logs_to_merge", "at", postgresql_where=text(TO_MERGE)),
    )
    attempt_id: Mapped[int] = mapped_column(ForeignKey("task_attempts.id"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigId, server_default=text("0"))  # of what comes next
    head: Mapped[int] = mapped_column(BigId, server_default=text("0"))  # position up to which all is kept in any case
    received_bytes: Mapped[int] = mapped_column(BigId, server_default=text("0"))  # of records, not compressed
    kept_bytes: Mapped[int] = mapped_column(BigId, server_default=text("0"))  # of those
    is_whole: Mapped[bool] = mapped_column(server_default=text("false"))  # the host says that no more comes
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))  # of the last chunk
    unmerged: Mapped[int] = mapped_column(server_default=text("0"))  # small chunks that came in since the last merging


class LogChunk(Base):
    """Some of it, compressed, as one object. They follow one another; where one is missing, it was dropped."""

    __tablename__ = "log_chunks"
    __table_args__ = (
        CheckConstraint("position >= 0 and length > 0 and size_bytes > 0 and content_bytes > 0", name="range"),
        Index("ix_log_chunks_dropped", "dropped_at", postgresql_where=text("dropped_at is not null")),
    )
    attempt_id: Mapped[int] = mapped_column(ForeignKey("task_attempts.id"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, server_default=text("0"))
    position: Mapped[int] = mapped_column(BigId, primary_key=True)  # of its first byte
    length: Mapped[int] = mapped_column(BigId)  # bytes of output that it covers, those dropped included
    size_bytes: Mapped[int] = mapped_column(BigId)  # of the object
    content_bytes: Mapped[int] = mapped_column(BigId)  # of its records, not compressed
    merged_uid: Mapped[UUID | None]  # it was several; part of the object's name, which no other try to merge has
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    dropped_at: Mapped[datetime | None] = mapped_column(Moment)  # no longer read; its object goes next, then the row


class LogLeftover(Base):
    """An object that no chunk names: what became part of another one, and what is to be one if its merging is done."""

    __tablename__ = "log_leftovers"
    key: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(Moment, index=True)  # it is deleted from then on
