"""Replies that were given to creations with an `Idempotency-Key`."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, Moment


class IdempotentReply(Base):
    """`request_hash` covers method, path and body. The reply is sealed, since it may hold a key or a first password."""

    __tablename__ = "idempotent_replies"
    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    reply_sealed: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"), index=True)
