"""Enrolment tokens may be made for a host that has joined before; all others are for new ones.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table enrolment_tokens add column host_id bigint")
    op.execute(
        "alter table enrolment_tokens add constraint fk_enrolment_tokens_host_id"
        " foreign key (host_id) references hosts (id)"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
