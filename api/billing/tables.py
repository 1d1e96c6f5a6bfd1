"""Price versions and the double-entry journal, in integer micro-units of a currency."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid


class PriceVersion(Base):
    """Immutable. The latest effective version whose model words match a device's is its price; more words win."""

    __tablename__ = "price_versions"
    __table_args__ = (CheckConstraint("price_micro_per_gpu_hour >= 0", name="price"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    gpu_model: Mapped[str]
    currency: Mapped[str] = mapped_column(server_default="USD")
    price_micro_per_gpu_hour: Mapped[int] = mapped_column(BigId)
    effective_from: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class Account(Base):
    """A ledger account. A customer has a `wallet` and a `holds` account; `revenue` and `funding` are the platform's.

    A liability to the customer is positive in `wallet`. `balance_micro` changes together with the insertion of a
    posting, under this row's lock, and a prepaid wallet can't go below zero.
    """

    __tablename__ = "accounts"
    __table_args__ = (
        CheckConstraint("kind in ('wallet', 'holds', 'revenue', 'funding')", name="kind"),
        CheckConstraint("kind not in ('wallet', 'holds') or balance_micro >= 0", name="never_negative"),
        Index("uq_accounts_owner", "customer_id", "kind", "currency", unique=True, postgresql_nulls_not_distinct=True),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"))
    kind: Mapped[str]
    currency: Mapped[str]
    balance_micro: Mapped[int] = mapped_column(BigId, server_default=text("0"))


class JournalTransaction(Base):
    """Append-only. `key` makes it idempotent: the same cause is posted once."""

    __tablename__ = "journal_transactions"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]  # "top_up", "hold", "hold_release", "usage"
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    actor: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")


class Posting(Base):
    """Append-only. The postings of a transaction sum to zero (deferred constraint trigger)."""

    __tablename__ = "postings"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    transaction_id: Mapped[int] = mapped_column(ForeignKey("journal_transactions.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    amount_micro: Mapped[int] = mapped_column(BigId)
    usage_interval_id: Mapped[int | None] = mapped_column(BigId, index=True)


class Hold(Base):
    """Money set aside for an allocation's next period; one open hold per allocation."""

    __tablename__ = "holds"
    __table_args__ = (CheckConstraint("amount_micro >= 0", name="amount"),)
    allocation_id: Mapped[int] = mapped_column(BigId, primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    amount_micro: Mapped[int] = mapped_column(BigId)
    covers_until: Mapped[datetime] = mapped_column(Moment)
