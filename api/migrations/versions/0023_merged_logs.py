"""Small chunks of output become larger ones.

Revision ID: 0023
Revises: 0022
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_SCHEMA = """
alter table logs add column unmerged integer default 0 not null;
create index ix_logs_to_merge on logs (at) where unmerged >= 64 or (is_whole and unmerged >= 8);
alter table log_chunks add column merged_uid uuid;
create table log_leftovers (
  key varchar not null,
  due_at timestamptz not null,
  constraint pk_log_leftovers primary key (key)
);
create index ix_log_leftovers_due_at on log_leftovers (due_at);
"""


def upgrade() -> None:
    op.execute(_SCHEMA)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
