"""Prices that are kept for a time: a hold has stretches, and a meter is of one.

Revision ID: 0026
Revises: 0025
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_UPGRADE = """
alter table price_versions add column kept_for_s bigint,
  add constraint ck_price_versions_kept check (kept_for_s >= 60);
alter table holds add column price_from_ms bigint, add column price_until_ms bigint,
  add column earlier_micro bigint default 0 not null;
update holds set price_from_ms = starts_ms;
alter table holds alter column price_from_ms set not null;
create table hold_prices (
  allocation_id bigint not null,
  generation integer not null,
  from_ms bigint not null,
  until_ms bigint not null,
  price_version_id bigint not null,
  terms varchar not null,
  price_micro_per_gpu_hour bigint not null,
  constraint pk_hold_prices primary key (allocation_id, generation, from_ms),
  constraint ck_hold_prices_span check (until_ms > from_ms),
  constraint fk_hold_prices_allocation_id foreign key (allocation_id, generation)
    references holds (allocation_id, generation),
  constraint fk_hold_prices_price_version_id foreign key (price_version_id) references price_versions (id)
);
alter table usage_meters add column price_from_ms bigint;
update usage_meters m set price_from_ms = h.starts_ms from holds h
  where h.allocation_id = m.allocation_id and h.generation = m.generation;
alter table usage_meters alter column price_from_ms set not null;
drop index uq_usage_meters_key;
create unique index uq_usage_meters_key on usage_meters (allocation_id, generation, gpu_id, price_from_ms);
"""


def upgrade() -> None:
    op.execute(_UPGRADE)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
