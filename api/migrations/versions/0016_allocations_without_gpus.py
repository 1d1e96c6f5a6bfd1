"""Allocations may have no GPUs.

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_UPGRADE = """
alter table allocations
  drop constraint ck_allocations_request,
  add constraint ck_allocations_request
    check (nodes >= 1 and gpus >= 0 and cpu_milli >= 1 and memory_bytes >= 1);
create index ix_allocations_gangs_without_devices on allocations (id) where nodes > 1 and gpus = 0;
"""


def upgrade() -> None:
    op.execute(_UPGRADE)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
