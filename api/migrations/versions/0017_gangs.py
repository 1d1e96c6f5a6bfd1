"""An attempt over several hosts succeeds when each of its nodes has.

Revision ID: 0017
Revises: 0016
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "alter table task_attempts add column ended_rank integer, add column ranks_done integer[] not null default '{}'"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
