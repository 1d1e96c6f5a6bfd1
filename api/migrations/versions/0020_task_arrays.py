"""Arrays of tasks: what of one is left, its elements that have started, and the workers that run them.

Revision ID: 0020
Revises: 0019
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_TABLES = """
alter table tasks add column array_id bigint,
  add constraint fk_tasks_array_id foreign key (array_id) references tasks (id);
create index ix_tasks_array_id on tasks (array_id) where array_id is not null;
alter table task_attempts add column elements_taken integer default 0 not null,
  add column elements_ended integer default 0 not null;
create table task_arrays (
  task_id bigint not null,
  total integer not null,
  pending varchar not null,
  waiting integer default 0 not null,
  succeeded integer default 0 not null,
  failed integer default 0 not null,
  lanes integer not null,
  setbacks integer default 0 not null,
  setback varchar default '' not null,
  rests_until timestamptz,
  constraint pk_task_arrays primary key (task_id),
  constraint ck_task_arrays_counts
    check (waiting >= 0 and succeeded >= 0 and failed >= 0 and waiting + succeeded + failed <= total),
  constraint fk_task_arrays_task_id foreign key (task_id) references tasks (id)
);
create table task_elements (
  task_id bigint not null,
  index integer not null,
  state varchar not null,
  tries integer default 0 not null,
  attempt_id bigint not null,
  place integer not null,
  "end" varchar,
  exit_code integer,
  signal integer,
  log_from bigint,
  log_to bigint,
  started_at timestamptz,
  ended_at timestamptz,
  due_at timestamptz,
  constraint pk_task_elements primary key (task_id, index),
  constraint ck_task_elements_state
    check (state in ('queued', 'starting', 'running', 'succeeded', 'failed', 'cancelled', 'timed_out')),
  constraint fk_task_elements_task_id foreign key (task_id) references tasks (id),
  constraint fk_task_elements_attempt_id foreign key (attempt_id) references task_attempts (id)
);
create index ix_task_elements_attempt on task_elements (attempt_id, place);
create index ix_task_elements_state on task_elements (task_id, state, index);
"""


def upgrade() -> None:
    op.execute(_TABLES)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
