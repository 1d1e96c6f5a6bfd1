"""Uploads know their object, objects that go are remembered until they are gone, and secrets are listed in pages.

Revision ID: 0015
Revises: 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_DOOMED = """
create table doomed_objects (
  object_key varchar not null,
  customer_id bigint not null,
  size_bytes bigint not null,
  delete_at timestamptz not null,
  constraint pk_doomed_objects primary key (object_key),
  constraint fk_doomed_objects_customer_id foreign key (customer_id) references customers (id)
);
create index ix_doomed_objects_customer_id on doomed_objects (customer_id);
create index ix_doomed_objects_delete_at on doomed_objects (delete_at)
"""


def upgrade() -> None:
    op.execute("alter table uploads add column object_key varchar not null")  # there was no way to make one before
    op.execute(_DOOMED)
    op.execute(
        "alter table secrets add column id bigint not null generated always as identity,"
        " add constraint uq_secrets_id unique (id)"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
