"""Environments keep how they are queued and what they may run on, for each start anew.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table environments add column scheduling jsonb not null default '{}'")
    op.execute(
        "update environments set scheduling = jsonb_build_object('gpu_models', jsonb_build_array(gpu_model))"
        " where gpu_model is not null"
    )
    op.execute("alter table environments drop column gpu_model")


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
