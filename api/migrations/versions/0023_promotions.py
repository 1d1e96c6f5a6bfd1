"""Promotion credit, to be spent by a day.

Revision ID: 0023
Revises: 0022
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_PROMOTIONS = """
create table promotions (
  id bigserial not null,
  uid uuid not null,
  customer_id bigint not null,
  currency varchar not null,
  amount_micro bigint not null,
  left_micro bigint not null,
  revenue_seen_micro bigint not null,
  note varchar default '' not null,
  granted_at timestamptz default now() not null,
  expires_at timestamptz not null,
  looked_at timestamptz default now() not null,
  closed_at timestamptz,
  constraint pk_promotions primary key (id),
  constraint uq_promotions_uid unique (uid),
  constraint ck_promotions_left check (left_micro >= 0 and left_micro <= amount_micro),
  constraint ck_promotions_closed check (closed_at is null or left_micro = 0),
  constraint fk_promotions_customer_id foreign key (customer_id) references customers (id)
);
create index ix_promotions_customer on promotions (customer_id, id);
create index ix_promotions_open on promotions (customer_id, currency, expires_at) where closed_at is null;
create index ix_promotions_due on promotions (expires_at) where closed_at is null;
"""


def upgrade() -> None:
    op.execute(_PROMOTIONS)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
