"""How far the continuous check has summed each account's postings, which it finds by account and id.

Revision ID: 0025
Revises: 0024
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_CHECKS = """
create table account_checks (
  account_id bigint not null,
  posting_id bigint not null,
  balance_micro bigint not null,
  constraint pk_account_checks primary key (account_id),
  constraint fk_account_checks_account_id foreign key (account_id) references accounts (id)
);
create index ix_postings_account on postings (account_id, id);
drop index ix_postings_account_id;
"""


def upgrade() -> None:
    op.execute(_CHECKS)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
