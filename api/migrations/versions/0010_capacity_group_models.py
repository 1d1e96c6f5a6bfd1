"""A capacity group may be of one GPU model.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table capacity_groups add column gpu_model varchar")


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
