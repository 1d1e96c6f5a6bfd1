"""An attempt over several hosts succeeds when each of its nodes has.

Revision ID: 0018
Revises: 0017
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "alter table task_attempts add column ended_rank integer, add column ranks_done integer[] not null default '{}'"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
