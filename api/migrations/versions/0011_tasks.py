"""Tasks with their attempts, and what they bring and leave: uploads, secrets, volumes, output.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TABLES = """
create table tasks (
  id bigserial,
  uid uuid not null,
  customer_id bigint not null,
  workspace_id bigint not null,
  user_id bigint not null,
  name varchar not null,
  submission_id varchar,
  spec jsonb not null,
  image_id bigint not null,
  working_dir varchar,
  more jsonb default '{}' not null,
  state varchar default 'queued' not null,
  detail varchar default '' not null,
  attempts integer default 0 not null,
  retries integer default 0 not null,
  allocation_id bigint,
  queue_at timestamptz,
  cancelled_at timestamptz,
  exit_code integer,
  progress jsonb,
  version bigint default 0 not null,
  created_at timestamptz default now() not null,
  started_at timestamptz,
  ended_at timestamptz,
  constraint pk_tasks primary key (id),
  constraint ck_tasks_state
    check (state in ('blocked', 'queued', 'starting', 'running', 'stopping', 'succeeded', 'failed', 'cancelled',
      'timed_out')),
  constraint ck_tasks_ended_at
    check ((ended_at is null) = (state in ('blocked', 'queued', 'starting', 'running', 'stopping'))),
  constraint uq_tasks_uid unique (uid),
  constraint fk_tasks_customer_id foreign key (customer_id) references customers (id),
  constraint fk_tasks_workspace_id foreign key (workspace_id) references workspaces (id),
  constraint fk_tasks_user_id foreign key (user_id) references users (id),
  constraint fk_tasks_image_id foreign key (image_id) references images (id),
  constraint fk_tasks_allocation_id foreign key (allocation_id) references allocations (id)
);
create index ix_tasks_allocation_id on tasks (allocation_id);
create index ix_tasks_customer on tasks (customer_id, id);
create index ix_tasks_name on tasks (workspace_id, name, id);
create index ix_tasks_open on tasks (id) where state in ('blocked', 'queued', 'starting', 'running', 'stopping');
create unique index uq_tasks_submission on tasks (customer_id, submission_id);
create table task_events (
  id bigserial,
  task_id bigint not null,
  at timestamptz default now() not null,
  actor varchar not null,
  from_state varchar,
  to_state varchar not null,
  reason varchar default '' not null,
  constraint pk_task_events primary key (id),
  constraint fk_task_events_task_id foreign key (task_id) references tasks (id)
);
create index ix_task_events_task_id on task_events (task_id);
create table task_attempts (
  id bigserial,
  uid uuid not null,
  task_id bigint not null,
  number integer not null,
  allocation_id bigint not null,
  generation integer not null,
  state varchar default 'starting' not null,
  phase varchar default '' not null,
  "end" varchar,
  exit_code integer,
  signal integer,
  limit_hit varchar,
  detail varchar default '' not null,
  notice varchar default '' not null,
  started_at timestamptz default now() not null,
  running_at timestamptz,
  stopping_at timestamptz,
  ended_at timestamptz,
  constraint pk_task_attempts primary key (id),
  constraint ck_task_attempts_state check (state in ('starting', 'running', 'stopping', 'ended')),
  constraint ck_task_attempts_end
    check ("end" in ('exited', 'out_of_memory', 'timed_out', 'preempted', 'host_lost', 'image_missing',
      'setup_failed', 'start_failed', 'disk_full', 'cancelled', 'unpaid')),
  constraint ck_task_attempts_has_end check (state not in ('stopping', 'ended') or "end" is not null),
  constraint uq_task_attempts_uid unique (uid),
  constraint fk_task_attempts_task_id foreign key (task_id) references tasks (id),
  constraint fk_task_attempts_allocation_id foreign key (allocation_id) references allocations (id)
);
create unique index uq_task_attempts_lease on task_attempts (allocation_id, generation);
create unique index uq_task_attempts_number on task_attempts (task_id, number);
create table task_attempt_events (
  id bigserial,
  attempt_id bigint not null,
  at timestamptz default now() not null,
  actor varchar not null,
  from_state varchar,
  to_state varchar not null,
  reason varchar default '' not null,
  constraint pk_task_attempt_events primary key (id),
  constraint fk_task_attempt_events_attempt_id foreign key (attempt_id) references task_attempts (id)
);
create index ix_task_attempt_events_attempt_id on task_attempt_events (attempt_id);
create table task_dependencies (
  task_id bigint not null,
  parent_id bigint not null,
  condition varchar not null,
  constraint pk_task_dependencies primary key (task_id, parent_id),
  constraint ck_task_dependencies_condition check (condition in ('succeeded', 'failed', 'finished')),
  constraint fk_task_dependencies_task_id foreign key (task_id) references tasks (id),
  constraint fk_task_dependencies_parent_id foreign key (parent_id) references tasks (id)
);
create index ix_task_dependencies_parent_id on task_dependencies (parent_id);
create table uploads (
  customer_id bigint not null,
  digest varchar not null,
  size_bytes bigint not null,
  created_at timestamptz default now() not null,
  used_at timestamptz default now() not null,
  constraint pk_uploads primary key (customer_id, digest),
  constraint ck_uploads_content check (digest ~ '^[0-9a-f]{64}$' and size_bytes >= 0),
  constraint fk_uploads_customer_id foreign key (customer_id) references customers (id)
);
create table packages (
  customer_id bigint not null,
  name varchar not null,
  digest varchar not null,
  created_at timestamptz default now() not null,
  constraint pk_packages primary key (customer_id, name),
  constraint fk_packages_customer_id foreign key (customer_id) references customers (id)
);
create table secrets (
  workspace_id bigint not null,
  name varchar not null,
  sealed bytea not null,
  created_by bigint not null,
  created_at timestamptz default now() not null,
  updated_at timestamptz default now() not null,
  constraint pk_secrets primary key (workspace_id, name),
  constraint fk_secrets_workspace_id foreign key (workspace_id) references workspaces (id),
  constraint fk_secrets_created_by foreign key (created_by) references users (id)
);
create table volumes (
  id bigserial,
  uid uuid not null,
  customer_id bigint not null,
  workspace_id bigint not null,
  user_id bigint not null,
  name varchar not null,
  size_bytes bigint not null,
  host_id bigint,
  created_at timestamptz default now() not null,
  delete_at timestamptz,
  deleted_at timestamptz,
  constraint pk_volumes primary key (id),
  constraint ck_volumes_size check (size_bytes > 0),
  constraint uq_volumes_uid unique (uid),
  constraint fk_volumes_customer_id foreign key (customer_id) references customers (id),
  constraint fk_volumes_workspace_id foreign key (workspace_id) references workspaces (id),
  constraint fk_volumes_user_id foreign key (user_id) references users (id),
  constraint fk_volumes_host_id foreign key (host_id) references hosts (id)
);
create index ix_volumes_customer_id on volumes (customer_id);
create unique index uq_volumes_name on volumes (workspace_id, name) where deleted_at is null;
create table log_chunks (
  attempt_id bigint not null,
  rank integer default 0 not null,
  position bigint not null,
  length bigint not null,
  size_bytes bigint not null,
  at timestamptz default now() not null,
  constraint pk_log_chunks primary key (attempt_id, rank, position),
  constraint ck_log_chunks_range check (position >= 0 and length >= 0 and size_bytes >= 0),
  constraint fk_log_chunks_attempt_id foreign key (attempt_id) references task_attempts (id)
)
"""

# Listeners hear of a task by its id; what its views show of its allocation counts as a change of it.
_TASK_CHANGED = """
create function task_changed() returns trigger language plpgsql as $$
begin
  if new is distinct from old then
    new.version := old.version + 1;
    perform pg_notify('tasks', new.id::text);
  end if;
  return new;
end
$$;
create or replace function allocation_changed() returns trigger language plpgsql as $$
begin
  if new.kind = 'task' then
    update tasks set version = version + 1 where allocation_id = new.id;
  else
    update environments set version = version + 1 where allocation_id = new.id;
  end if;
  return null;
end
$$
"""


def upgrade() -> None:
    op.execute(_TABLES)
    op.execute(_TASK_CHANGED)
    op.execute("create trigger tasks_changed before update on tasks for each row execute function task_changed()")
    op.execute("alter table allocations add column grace_s integer, add column shm_bytes bigint")


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
