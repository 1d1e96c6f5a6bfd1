"""Replies that were given to creations with an `Idempotency-Key`."""

from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, Moment


class IdempotentReply(Base):
    """`request_hash` covers method, path and body: the same key with another request is refused."""

    __tablename__ = "idempotent_replies"
    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    reply: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"), index=True)
