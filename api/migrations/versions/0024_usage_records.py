"""Usage is sealed: records that form a chain per customer, the heads that are signed, and the keys that sign them.

Revision ID: 0024
Revises: 0023
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _make_records()
    _make_heads()
    op.create_index("ix_holds_closed", "holds", ["closed_at"], postgresql_where="closed_at is not null")
    _refuse_changes()


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")


def _make_records() -> None:
    op.create_table(
        "sealed_meters",
        sa.Column("meter_id", sa.BigInteger, sa.ForeignKey("usage_meters.id"), primary_key=True),
        sa.Column("customer_id", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("body", sa.String, nullable=False),
        sa.Column("covered", postgresql.INT8MULTIRANGE, nullable=False),
        sa.Column("sealed_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_sealed_meters_customer", "sealed_meters", ["customer_id"])
    op.create_table(
        "usage_records",
        sa.Column("customer_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("meter_id", sa.BigInteger, sa.ForeignKey("sealed_meters.meter_id"), nullable=False),
        sa.Column("from_ms", sa.BigInteger, nullable=False),
        sa.Column("to_ms", sa.BigInteger, nullable=False),
        sa.Column("proven_ms", sa.BigInteger, nullable=False),
        sa.Column("sealed_ms", sa.BigInteger, nullable=False),
        sa.Column("previous", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("to_ms > from_ms and sequence > 0", name="ck_usage_records_span"),
        sa.CheckConstraint("length(hash) = 32 and length(previous) = 32", name="ck_usage_records_hashes"),
        postgresql.ExcludeConstraint(
            (sa.text("int8range(meter_id, meter_id, '[]')"), "&&"),
            (sa.text("int8range(from_ms, to_ms)"), "&&"),
            name="ex_usage_records_disjoint",
            using="gist",
        ),
    )
    op.create_index("ix_usage_records_meter", "usage_records", ["meter_id", "sequence"])


def _make_heads() -> None:
    op.create_table(
        "bill_keys",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("kid", sa.String, nullable=False, unique=True),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("private_sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.create_table(
        "usage_heads",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("customer_id", sa.BigInteger, nullable=False),
        sa.Column("period", sa.String, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("closed", sa.Boolean, nullable=False),
        sa.Column("signed_ms", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.BigInteger, sa.ForeignKey("bill_keys.id"), nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_usage_heads_customer", "usage_heads", ["customer_id", "id"])
    position = ["customer_id", "period", "sequence", "closed"]
    op.create_index("uq_usage_heads_position", "usage_heads", position, unique=True)
    op.create_index(
        "uq_usage_heads_closed", "usage_heads", ["customer_id", "period"], unique=True, postgresql_where="closed"
    )


def _refuse_changes() -> None:
    for table in ("usage_records", "usage_heads", "bill_keys"):
        op.execute(
            f"create trigger append_only before update or delete on {table} "
            "for each row execute function refuse_change()"
        )
    for table in ("usage_records", "usage_heads", "bill_keys", "sealed_meters"):
        op.execute(
            f"create trigger append_only_truncate before truncate on {table} "
            "for each statement execute function refuse_change()"
        )
    # What a meter is stays as it was sealed; how far it is sealed moves on.
    op.execute(
        "create trigger append_only before delete or update of meter_id, customer_id, digest, body on sealed_meters"
        " for each row execute function refuse_change()"
    )
