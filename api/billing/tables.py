"""Price versions and the double-entry journal, in integer micro-units of a currency."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid


class PriceVersion(Base):
    """Immutable. Which one is in force for a device and a customer, `prices.py` says."""

    __tablename__ = "price_versions"
    __table_args__ = (
        CheckConstraint("price_micro >= 0", name="price"),
        CheckConstraint(
            "unit in ('gpu_hour', 'cpu_core_hour', 'memory_gib_hour', 'volume_gib_month', 'egress_gib')", name="unit"
        ),
        CheckConstraint("(unit = 'gpu_hour') = (gpu_model is not null)", name="model"),
        CheckConstraint("capacity_group is null or customer_id is not null", name="reach"),
        CheckConstraint(
            "preemptible_discount_permille between 0 and 1000 and reserved_discount_permille between 0 and 1000",
            name="discounts",
        ),
        CheckConstraint("kept_for_s >= 60", name="kept"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    unit: Mapped[str] = mapped_column(server_default="gpu_hour")  # PriceUnit in prices.py
    gpu_model: Mapped[str | None]
    currency: Mapped[str] = mapped_column(server_default="USD")
    price_micro: Mapped[int] = mapped_column(BigId)  # of one unit, before discounts
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"))  # theirs alone; null: the list's
    capacity_group: Mapped[str | None]  # this one's of theirs alone, by name: groups come and go, versions stay
    preemptible_discount_permille: Mapped[int] = mapped_column(server_default=text("0"))
    reserved_discount_permille: Mapped[int] = mapped_column(server_default=text("0"))
    kept_for_s: Mapped[int | None] = mapped_column(BigId)  # how long what it prices keeps it; null: to its end
    effective_from: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class Account(Base):
    """A ledger account. Each customer has six per currency, which sum to zero: `funding` (what they paid, negative),
    `wallet` (free to spend), `holds` (set aside for what runs), `revenue` (earned from them), `promotions` and
    `adjustments` (what the platform gave, negative, or took).

    They are per customer so that no two customers' charges ever wait for the same row. `balance_micro` changes
    together with the insertion of a posting, under this row's lock; a wallet can't go below zero, or minus the credit
    limit of a customer who pays afterwards.
    """

    __tablename__ = "accounts"
    __table_args__ = (
        CheckConstraint("kind in ('wallet', 'holds', 'revenue', 'funding', 'promotions', 'adjustments')", name="kind"),
        CheckConstraint(
            "kind not in ('wallet', 'holds') or balance_micro + credit_limit_micro >= 0", name="never_negative"
        ),
        CheckConstraint("kind <> 'funding' or balance_micro <= 0", name="paid_in"),
        CheckConstraint("credit_limit_micro >= 0 and (kind = 'wallet' or credit_limit_micro = 0)", name="credit_limit"),
        Index("uq_accounts_owner", "customer_id", "kind", "currency", unique=True, postgresql_nulls_not_distinct=True),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"))
    kind: Mapped[str]
    currency: Mapped[str]
    balance_micro: Mapped[int] = mapped_column(BigId, server_default=text("0"))
    credit_limit_micro: Mapped[int] = mapped_column(BigId, server_default=text("0"))  # how far below zero it may go


class JournalTransaction(Base):
    """Append-only. `key` makes it idempotent: the same cause is posted once."""

    __tablename__ = "journal_transactions"
    __table_args__ = (
        Index("ix_journal_transactions_customer", "customer_id", "id"),
        Index("ix_journal_transactions_period", "customer_id", "at"),
        Index("ix_journal_transactions_not_usage", "customer_id", "at", postgresql_where=text("kind <> 'usage'")),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    # Not a foreign key: checking one would wait for whoever holds the customer's row (docs/explanation/locking.md).
    customer_id: Mapped[int] = mapped_column(BigId)
    key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]  # JournalKind in journal.py
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    actor: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")


class Posting(Base):
    """Append-only. The postings of a transaction sum to zero (deferred constraint trigger).

    A posting of a usage charge names its meter, and the proven time that it pays for: the statement sums both.
    """

    __tablename__ = "postings"
    __table_args__ = (
        CheckConstraint("(meter_id is null) = (duration_ms is null)", name="duration"),
        Index("ix_postings_account", "account_id", "id"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    transaction_id: Mapped[int] = mapped_column(ForeignKey("journal_transactions.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    amount_micro: Mapped[int] = mapped_column(BigId)
    meter_id: Mapped[int | None] = mapped_column(ForeignKey("usage_meters.id"), index=True)
    duration_ms: Mapped[int | None] = mapped_column(BigId)


class Hold(Base):
    """Money set aside for one generation of an allocation, so that what it proves is always paid for.

    `bought_micro` is what was held in all, enough for every device until `covers_until_ms`; `amount_micro` is what is
    left of it on the holds account: bought, less charged, less given back. From settlement on, no time after
    `billable_until_ms` is billed, and what is left goes back to the wallet when the last windows (`last_boot_ids`,
    `last_sequences`) of its hosts are in, where they have named any, and at `release_at` at the latest.
    """

    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("amount_micro >= 0 and bought_micro >= amount_micro", name="amount"),
        CheckConstraint("(billable_until_ms is null) = (release_at is null)", name="settled"),
        CheckConstraint("cardinality(last_boot_ids) is not distinct from cardinality(last_sequences)", name="windows"),
        CheckConstraint("closed_at is null or (amount_micro = 0 and release_at is not null)", name="closed"),
        Index("ix_holds_release", "release_at", postgresql_where=text("closed_at is null")),
        Index("ix_holds_customer", "customer_id", postgresql_where=text("closed_at is null")),
        Index("ix_holds_closed", "closed_at", postgresql_where=text("closed_at is not null")),
        Index(
            "ix_holds_closed_of_customer", "customer_id", "closed_at", postgresql_where=text("closed_at is not null")
        ),
    )
    allocation_id: Mapped[int] = mapped_column(ForeignKey("allocations.id"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environments.id"))  # what the statement calls it,
    task_id: Mapped[int | None] = mapped_column(ForeignKey("tasks.id"))  # or this
    price_version_id: Mapped[int] = mapped_column(ForeignKey("price_versions.id"))
    terms: Mapped[str]  # PriceTerms in scheduler/prices.py: which of the version's discounts counts
    price_micro_per_gpu_hour: Mapped[int] = mapped_column(BigId)  # after it: what everything is counted with
    price_from_ms: Mapped[int] = mapped_column(BigId)  # the price before it, if any, is a HoldPrice
    price_until_ms: Mapped[int | None] = mapped_column(BigId)  # until when it is kept; null: to its end
    earlier_micro: Mapped[int] = mapped_column(BigId, server_default=text("0"))  # bought for the time before it
    devices_milli: Mapped[int]
    devices: Mapped[int]
    starts_ms: Mapped[int] = mapped_column(BigId)
    covers_until_ms: Mapped[int] = mapped_column(BigId)
    bought_micro: Mapped[int] = mapped_column(BigId)
    amount_micro: Mapped[int] = mapped_column(BigId)
    steps: Mapped[int] = mapped_column(server_default=text("0"))  # numbers its journal transactions
    billable_until_ms: Mapped[int | None] = mapped_column(BigId)
    release_at: Mapped[datetime | None] = mapped_column(Moment)
    last_boot_ids: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    last_sequences: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))
    closed_at: Mapped[datetime | None] = mapped_column(Moment)


class HoldPrice(Base):
    """A price that a hold had before the present one, which begins where the last of these ends. Append-only."""

    __tablename__ = "hold_prices"
    __table_args__ = (
        ForeignKeyConstraint(["allocation_id", "generation"], ["holds.allocation_id", "holds.generation"]),
        CheckConstraint("until_ms > from_ms", name="span"),
    )
    allocation_id: Mapped[int] = mapped_column(BigId, primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    from_ms: Mapped[int] = mapped_column(BigId, primary_key=True)
    until_ms: Mapped[int] = mapped_column(BigId)
    price_version_id: Mapped[int] = mapped_column(ForeignKey("price_versions.id"))
    terms: Mapped[str]
    price_micro_per_gpu_hour: Mapped[int] = mapped_column(BigId)


class Promotion(Base):
    """Credit that the platform gave, to be spent by a day.

    `left_micro` is what was left of it when the revenue account of its customer had `revenue_seen_micro`: what was
    charged since then was paid with the customer's open promotions first, in the order of `expires_at`.
    """

    __tablename__ = "promotions"
    __table_args__ = (
        CheckConstraint("left_micro >= 0 and left_micro <= amount_micro", name="left"),
        CheckConstraint("closed_at is null or left_micro = 0", name="closed"),
        Index("ix_promotions_customer", "customer_id", "id"),
        Index(
            "ix_promotions_open", "customer_id", "currency", "expires_at", postgresql_where=text("closed_at is null")
        ),
        Index("ix_promotions_due", "expires_at", postgresql_where=text("closed_at is null")),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    currency: Mapped[str]
    amount_micro: Mapped[int] = mapped_column(BigId)
    left_micro: Mapped[int] = mapped_column(BigId)
    revenue_seen_micro: Mapped[int] = mapped_column(BigId)
    note: Mapped[str] = mapped_column(server_default="")
    granted_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    expires_at: Mapped[datetime] = mapped_column(Moment)
    looked_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))  # when its end was last seen to
    closed_at: Mapped[datetime | None] = mapped_column(Moment)


class BalanceWarning(Base):
    """That a customer's money lasted no longer than `threshold_s` for what ran, said once until `cleared_at`.

    `runs_out_at` is what was foreseen when it was raised.
    """

    __tablename__ = "balance_warnings"
    __table_args__ = (
        Index(
            "uq_balance_warnings_spell",
            "customer_id",
            "threshold_s",
            unique=True,
            postgresql_where=text("cleared_at is null"),
        ),
        Index("ix_balance_warnings_customer", "customer_id", "id"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    threshold_s: Mapped[int]
    raised_at: Mapped[datetime] = mapped_column(Moment)
    runs_out_at: Mapped[datetime] = mapped_column(Moment)
    cleared_at: Mapped[datetime | None] = mapped_column(Moment)


class AccountCheck(Base):
    """How far the continuous check has summed an account's postings: up to this one, they sum to that."""

    __tablename__ = "account_checks"
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    posting_id: Mapped[int] = mapped_column(BigId)
    balance_micro: Mapped[int] = mapped_column(BigId)
