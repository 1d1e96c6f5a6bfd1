"""Quotas of workspaces and users, more kinds of limits, and plans.

Revision ID: 0025
Revises: 0024
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_LIMITS = (
    "gpus, cpu_milli, memory_bytes, allocations, queued, tasks, lease_s, environments, array_elements, volumes,"
    " volume_bytes, month_micro"
)
_UPGRADE = f"""
alter table quotas drop constraint pk_quotas;
alter table quotas
  add column id bigserial constraint pk_quotas primary key,
  add column workspace_id bigint constraint fk_quotas_workspace_id references workspaces (id),
  add column user_id bigint constraint fk_quotas_user_id references users (id),
  add column tasks integer,
  add column gpu_models jsonb not null default '{{}}',
  add column lease_s integer,
  add column environments integer,
  add column array_elements integer,
  add column volumes integer,
  add column volume_bytes bigint,
  add column month_micro bigint,
  drop constraint ck_quotas_limits,
  add constraint ck_quotas_limits check (least({_LIMITS}) >= 0),
  add constraint ck_quotas_one_level check (num_nonnulls(workspace_id, user_id) <= 1);
create unique index uq_quotas_owner on quotas (customer_id, workspace_id, user_id) nulls not distinct;
create table plans (
  id bigserial constraint pk_plans primary key,
  name varchar not null,
  gpus integer,
  cpu_milli bigint,
  memory_bytes bigint,
  allocations integer,
  queued integer,
  tasks integer,
  gpu_models jsonb not null default '{{}}',
  lease_s integer,
  environments integer,
  array_elements integer,
  volumes integer,
  volume_bytes bigint,
  month_micro bigint,
  created_at timestamptz not null default now(),
  constraint uq_plans_name unique (name),
  constraint ck_plans_limits check (least({_LIMITS}) >= 0)
);
alter table customers add column plan_id bigint constraint fk_customers_plan_id references plans (id);
create index ix_customers_plan_id on customers (plan_id) where plan_id is not null;
create index ix_holds_closed_of_customer on holds (customer_id, closed_at) where closed_at is not null;
"""
# What the scheduling loop has to hear of.
_NOTE_PLAN = """
create function note_plan() returns trigger language plpgsql as $$
begin
  insert into scheduler_changes select 'customer', id from customers where plan_id = new.id;
  return null;
end
$$;
create trigger note_update after update on plans for each row execute function note_plan();
drop trigger note_update on customers;
create trigger note_update after update on customers for each row
  when ((old.currency, old.weight, old.disabled_at, old.plan_id)
    is distinct from (new.currency, new.weight, new.disabled_at, new.plan_id)) execute function note_customer();
"""


def upgrade() -> None:
    op.execute(_UPGRADE)
    op.execute(_NOTE_PLAN)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
