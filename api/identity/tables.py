"""Users. (Sessions, refresh tokens, API keys and signing keys stand beside them.)"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, text
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid


class User(Base):
    """`username` is a DNS label: it is the Hub's user name and, with a domain, the user's subdomain."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("username ~ '^[a-z][a-z0-9-]{0,30}[a-z0-9]$'", name="username"),
        CheckConstraint("role in ('admin', 'customer_owner', 'customer_member')", name="role"),
        CheckConstraint("(role = 'admin') = (customer_id is null)", name="customer"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    username: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str | None] = mapped_column(unique=True)
    display_name: Mapped[str] = mapped_column(server_default="")
    password_hash: Mapped[str]
    must_change_password: Mapped[bool] = mapped_column(server_default=text("false"))
    role: Mapped[str]
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"), index=True)
    failed_logins: Mapped[int] = mapped_column(server_default=text("0"))
    locked_until: Mapped[datetime | None] = mapped_column(Moment)
    disabled_at: Mapped[datetime | None] = mapped_column(Moment)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
