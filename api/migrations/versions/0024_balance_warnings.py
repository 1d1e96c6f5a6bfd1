"""Warnings of an ending balance, and what customers want to be warned at besides.

Revision ID: 0024
Revises: 0023
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_WARNINGS = """
alter table customers add column warn_before_s integer[] default '{}' not null;
create table balance_warnings (
  id bigserial not null,
  uid uuid not null,
  customer_id bigint not null,
  threshold_s integer not null,
  raised_at timestamptz not null,
  runs_out_at timestamptz not null,
  cleared_at timestamptz,
  constraint pk_balance_warnings primary key (id),
  constraint uq_balance_warnings_uid unique (uid),
  constraint fk_balance_warnings_customer_id foreign key (customer_id) references customers (id)
);
create unique index uq_balance_warnings_spell on balance_warnings (customer_id, threshold_s) where cleared_at is null;
create index ix_balance_warnings_customer on balance_warnings (customer_id, id);
"""


def upgrade() -> None:
    op.execute(_WARNINGS)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
