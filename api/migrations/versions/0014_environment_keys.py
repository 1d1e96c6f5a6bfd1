"""API keys of environments: they are good as long as its container lives.

Revision ID: 0014
Revises: 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table api_keys add column environment_id bigint")
    op.execute(
        "alter table api_keys add constraint fk_api_keys_environment_id"
        " foreign key (environment_id) references environments (id)"
    )
    op.execute("create index ix_api_keys_environment_id on api_keys (environment_id)")


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
