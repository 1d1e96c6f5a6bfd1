"""What the scheduler decides by: richer requests, gangs, capacity groups, reservations, and what has changed.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_CAPACITY_GROUPS = """
create table capacity_groups (
  id bigserial constraint pk_capacity_groups primary key,
  uid uuid not null constraint uq_capacity_groups_uid unique,
  name varchar not null constraint uq_capacity_groups_name unique,
  customer_id bigint not null constraint fk_capacity_groups_customer_id references customers (id),
  cohort varchar,
  nominal_milli bigint not null,
  borrowing_limit_milli bigint,
  lending_limit_milli bigint,
  reclaim_within_cohort boolean not null default true,
  preempt_lower_priority boolean not null default true,
  created_at timestamptz not null default now(),
  constraint ck_capacity_groups_figures
    check (nominal_milli >= 0 and borrowing_limit_milli >= 0 and lending_limit_milli >= 0)
);
create index ix_capacity_groups_customer_id on capacity_groups (customer_id)
"""

_RESERVATIONS = """
create table reservations (
  id bigserial constraint pk_reservations primary key,
  uid uuid not null constraint uq_reservations_uid unique,
  customer_id bigint not null constraint fk_reservations_customer_id references customers (id),
  workspace_id bigint not null constraint fk_reservations_workspace_id references workspaces (id),
  user_id bigint not null constraint fk_reservations_user_id references users (id),
  series_uid uuid,
  state varchar not null default 'booked',
  starts_at timestamptz not null,
  ends_at timestamptz not null,
  nodes integer not null default 1,
  gpus integer not null,
  cpu_milli bigint not null,
  memory_bytes bigint not null,
  created_at timestamptz not null default now(),
  cancelled_at timestamptz,
  constraint ck_reservations_state check (state in ('booked', 'cancelled')),
  constraint ck_reservations_period check (starts_at < ends_at),
  constraint ck_reservations_request check (nodes >= 1 and gpus >= 1 and cpu_milli >= 1 and memory_bytes >= 1)
);
create index ix_reservations_booked on reservations (ends_at) where state = 'booked';
create index ix_reservations_customer on reservations (customer_id, id);
create table reservation_devices (
  id bigserial constraint pk_reservation_devices primary key,
  reservation_id bigint not null constraint fk_reservation_devices_reservation_id references reservations (id),
  gpu_id bigint not null constraint fk_reservation_devices_gpu_id references gpus (id),
  period tstzrange not null,
  constraint ex_reservation_devices_one_owner
    exclude using gist (int8range(gpu_id, gpu_id, '[]') with &&, period with &&)
);
create index ix_reservation_devices_reservation_id on reservation_devices (reservation_id);
create index ix_reservation_devices_gpu_id on reservation_devices (gpu_id)
"""

_CUSTOMERS = """
alter table customers
  add column weight double precision not null default 1,
  add column priority_ceiling integer not null default 500,
  add constraint ck_customers_weight check (weight > 0 and weight < 'infinity'),
  add constraint ck_customers_priority_ceiling check (priority_ceiling between 0 and 1000)
"""

_ALLOCATIONS = """
alter table allocations
  add column nodes integer not null default 1,
  add column milli integer not null default 1000,
  add column gpu_models text[] not null default '{}',
  add column gpu_memory_bytes bigint not null default 0,
  add column selectors jsonb not null default '[]',
  add column driver_min varchar,
  add column cuda_min varchar,
  add column apart varchar,
  add column within_level varchar,
  add column capacity_group_id bigint constraint fk_allocations_capacity_group_id references capacity_groups (id),
  add column reservation_id bigint constraint fk_allocations_reservation_id references reservations (id),
  add column preemptible boolean not null default false,
  add column min_runtime_s integer not null default 0,
  add column limit_s integer,
  add column checkpoint_at timestamptz,
  add column host_ids bigint[] not null default '{}';
update allocations set gpu_models = array_remove(array[gpu_model], null), host_ids = array_remove(array[host_id], null);
alter table allocations
  drop column gpu_model,
  drop constraint ck_allocations_request,
  add constraint ck_allocations_request
    check (nodes >= 1 and gpus >= 1 and cpu_milli >= 1 and memory_bytes >= 1),
  add constraint ck_allocations_milli check (milli between 1 and 1000 and (milli = 1000 or gpus = 1)),
  add constraint ck_allocations_priority check (priority between 0 and 1000),
  add constraint ck_allocations_bounds check (gpu_memory_bytes >= 0 and min_runtime_s >= 0 and limit_s > 0),
  add constraint ck_allocations_first_host check (host_id is not distinct from host_ids[1]),
  add constraint ck_allocations_holds_a_host
    check ((state in ('placing', 'active', 'releasing')) = (host_id is not null and released_at is null)),
  -- Room for the next state beside the last one, which touches no index as long as it is on the same page.
  set (fillfactor = 65);
drop index ix_allocations_queue;
drop index ix_allocations_live;
create index ix_allocations_queue on allocations (customer_id, priority, queued_at)
  where host_id is null and released_at is null;
create index ix_allocations_holding on allocations (customer_id) where host_id is not null and released_at is null
"""

_PLACEMENT_GROUPS = """
alter table placement_groups add column host_ids bigint[];
update placement_groups set host_ids = array[host_id];
alter table placement_groups
  alter column host_ids set not null,
  add constraint ck_placement_groups_first_host check (host_id = host_ids[1]);
create index ix_placement_groups_idle on placement_groups (idle_since) where idle_since is not null;
create index ix_placement_groups_removing on placement_groups (id) where state = 'removing'
"""

_HOLDS = """
alter table holds
  drop constraint ck_holds_last_window,
  alter column last_boot_id type text[] using array[last_boot_id],
  alter column last_sequence type bigint[] using array[last_sequence];
alter table holds rename column last_boot_id to last_boot_ids;
alter table holds rename column last_sequence to last_sequences;
update holds set last_boot_ids = null, last_sequences = null where last_boot_ids = array[null];
alter table holds add constraint ck_holds_windows
  check (cardinality(last_boot_ids) is not distinct from cardinality(last_sequences))
"""

# The columns by which a change is one for the scheduler. What heartbeats and cycles write again and again, such as
# `run_until`, `wait_reason`, `heartbeat_at` and readings, is left out.
_OF_ALLOCATIONS = (
    "state, generation, host_ids, priority, not_before, capacity_group_id, reservation_id, preemptible,"
    " min_runtime_s, limit_s, checkpoint_at"
)
_OF_HOSTS = "name, admin_state, device_status, cpu_milli, memory_bytes, labels, facts"
_OF_GPUS = "host_id, index, uuid, model, memory_bytes, pci_bus_id, nvlink_peer_uuids, present, healthy"
_OF_CUSTOMERS = "currency, weight, disabled_at"

# A wallet matters while something waits for it: what is queued later is read together with its customer.
_NOTE_WALLET = """
create function note_wallet() returns trigger language plpgsql as $$
begin
  if exists (
    select from allocations where customer_id = new.customer_id and host_id is null and released_at is null
  ) then
    insert into scheduler_changes values ('customer', new.customer_id);
  end if;
  return null;
end
$$
"""

_NOTE_GPU = """
create function note_gpu() returns trigger language plpgsql as $$
begin
  insert into scheduler_changes values ('host', new.host_id);
  if tg_op = 'UPDATE' and old.host_id <> new.host_id then
    insert into scheduler_changes values ('host', old.host_id);
  end if;
  return null;
end
$$
"""


def upgrade() -> None:
    op.execute(_CAPACITY_GROUPS)
    op.execute(_RESERVATIONS)
    op.execute(_CUSTOMERS)
    op.execute(_ALLOCATIONS)
    op.execute(_PLACEMENT_GROUPS)
    op.execute(_HOLDS)
    op.execute(
        "create unlogged table scheduler_changes (kind text not null, key bigint not null)"
        # It is emptied all the time: without this its dead rows would be read until the usual threshold.
        " with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)"
    )
    _note_changes()
    # As before, less the look-up where it finds nothing.
    op.execute("drop trigger allocations_changed on allocations")
    op.execute(
        "create trigger allocations_changed after update on allocations for each row"
        " when (new.kind = 'environment' and (old.state, old.generation, old.host_id, old.wait_reason)"
        " is distinct from (new.state, new.generation, new.host_id, new.wait_reason))"
        " execute function allocation_changed()"
    )


def _note_changes() -> None:
    op.execute(_NOTE_WALLET)
    op.execute(_NOTE_GPU)
    _note("allocation", "new.id")
    _on("allocations", "insert", "note_allocation")
    _on_update("allocations", _OF_ALLOCATIONS, "note_allocation")
    _note("host", "new.id")
    _on("hosts", "insert", "note_host")
    _on_update("hosts", _OF_HOSTS, "note_host")
    _on("gpus", "insert", "note_gpu")
    _on_update("gpus", _OF_GPUS, "note_gpu")
    _note("customer", "new.id")
    _on("customers", "insert", "note_customer")
    _on_update("customers", _OF_CUSTOMERS, "note_customer")
    _note("quota", "coalesce(new.customer_id, old.customer_id)", kind="customer")
    _on("quotas", "insert or update or delete", "note_quota")
    _on("accounts", "update", "note_wallet", "new.kind = 'wallet' and new.balance_micro <> old.balance_micro")
    _note("group", "new.id")
    idle = "({0}.state = 'reserved' and {0}.allocation_id is null)"
    _on("placement_groups", "update", "note_group", f"{idle.format('old')} <> {idle.format('new')}")
    for table in ("price_versions", "settings", "capacity_groups", "reservations", "reservation_devices"):
        _note(table, "0")
        _on(table, "insert or update or delete", f"note_{table}", each="statement")


def _note(name: str, key: str, *, kind: str | None = None) -> None:
    op.execute(
        f"create function note_{name}() returns trigger language plpgsql as $$ begin"
        f" insert into scheduler_changes values ('{kind or name}', {key}); return null; end $$"
    )


def _on_update(table: str, columns: str, function: str) -> None:
    old, new = (", ".join(f"{row}.{column}" for column in columns.split(", ")) for row in ("old", "new"))
    _on(table, "update", function, f"({old}) is distinct from ({new})")


def _on(table: str, event: str, function: str, when: str = "", *, each: str = "row") -> None:
    name = f"note_{event.split()[0]}"
    condition = f"when ({when})" if when else ""
    op.execute(
        f"create trigger {name} after {event} on {table} for each {each} {condition} execute function {function}()"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
