"""A quota may limit how many allocations a customer has at once.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "alter table quotas add column allocations integer, drop constraint ck_quotas_limits,"
        " add constraint ck_quotas_limits check"
        " (coalesce(gpus, 0) >= 0 and coalesce(allocations, 0) >= 0 and coalesce(queued, 0) >= 0)"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
