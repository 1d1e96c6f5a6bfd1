"""Prices of other units, of one customer or capacity group, with discounts; holds and meters keep what they pay.

Revision ID: 0021
Revises: 0020
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_VERSIONS = """
alter table price_versions rename column price_micro_per_gpu_hour to price_micro;
alter table price_versions
  alter column gpu_model drop not null,
  add column unit varchar default 'gpu_hour' not null,
  add column customer_id bigint,
  add column capacity_group varchar,
  add column preemptible_discount_permille integer default 0 not null,
  add column reserved_discount_permille integer default 0 not null,
  add constraint fk_price_versions_customer_id foreign key (customer_id) references customers (id),
  add constraint ck_price_versions_unit
    check (unit in ('gpu_hour', 'cpu_core_hour', 'memory_gib_hour', 'volume_gib_month', 'egress_gib')),
  add constraint ck_price_versions_model check ((unit = 'gpu_hour') = (gpu_model is not null)),
  add constraint ck_price_versions_reach check (capacity_group is null or customer_id is not null),
  add constraint ck_price_versions_discounts
    check (preemptible_discount_permille between 0 and 1000 and reserved_discount_permille between 0 and 1000);
alter table allocations drop column price_version_id;
"""
_PAID = """
alter table {0} add column terms varchar, add column price_micro_per_gpu_hour bigint;
update {0} set terms = 'on_demand', price_micro_per_gpu_hour = p.price_micro
  from price_versions p where p.id = {0}.price_version_id;
alter table {0} alter column terms set not null, alter column price_micro_per_gpu_hour set not null;
"""


def upgrade() -> None:
    op.execute(_VERSIONS)
    for table in ("holds", "usage_meters"):
        op.execute(_PAID.format(table))


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
