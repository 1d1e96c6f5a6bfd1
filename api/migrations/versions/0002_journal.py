"""What is written once stays as it was written: journal, proof, prices, audit and events.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APPEND_ONLY = (
    "journal_transactions",
    "postings",
    "price_versions",
    "usage_windows",
    "audit_entries",
    "allocation_events",
    "environment_events",
    "host_events",
)


def upgrade() -> None:
    op.execute(
        """
        create function refuse_change() returns trigger language plpgsql as $$
        begin
            raise exception '% is append-only: correct it by adding rows', tg_table_name
                using errcode = 'restrict_violation';
        end $$
        """
    )
    for table in APPEND_ONLY:
        op.execute(
            f"create trigger append_only before update or delete on {table} "
            "for each row execute function refuse_change()"
        )
        op.execute(
            f"create trigger append_only_truncate before truncate on {table} "
            "for each statement execute function refuse_change()"
        )
    op.execute(
        """
        create function check_balanced() returns trigger language plpgsql as $$
        declare
            total numeric;
        begin
            select sum(amount_micro) into total from postings where transaction_id = new.transaction_id;
            if total <> 0 then
                raise exception 'journal transaction % sums to %, not to zero', new.transaction_id, total
                    using errcode = 'check_violation';
            end if;
            return null;
        end $$
        """
    )
    # Deferred: a transaction's postings are inserted one after another, and balance at its commit.
    op.execute(
        "create constraint trigger balanced after insert on postings deferrable initially deferred "
        "for each row execute function check_balanced()"
    )


def downgrade() -> None:
    op.execute("drop trigger balanced on postings")
    op.execute("drop function check_balanced()")
    for table in APPEND_ONLY:
        op.execute(f"drop trigger append_only_truncate on {table}")
        op.execute(f"drop trigger append_only on {table}")
    op.execute("drop function refuse_change()")
