"""Authorisation codes of the OpenID Connect provider."""

from datetime import datetime

from sqlalchemy import ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment


class AuthorizationCode(Base):
    """Good for one use within a minute; kept as a hash, bound to client, redirect URI, PKCE challenge and sign-in."""

    __tablename__ = "authorization_codes"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    code_hash: Mapped[bytes] = mapped_column(unique=True)
    client_id: Mapped[str]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    web_session_id: Mapped[int] = mapped_column(ForeignKey("web_sessions.id"), index=True)
    redirect_uri: Mapped[str]
    scope: Mapped[str]
    nonce: Mapped[str | None]
    code_challenge: Mapped[str]
    auth_time: Mapped[int] = mapped_column(BigId)  # seconds since the epoch
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    expires_at: Mapped[datetime] = mapped_column(Moment)
    used_at: Mapped[datetime | None] = mapped_column(Moment)
