"""When a user's password was changed last: what ends the sessions that others keep of their own, as the Hub does.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table users add column password_changed_at timestamptz")


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
