"""How far the output of an attempt has come in, and what of it is still kept.

Revision ID: 0013
Revises: 0012
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_LOGS = """
create table logs (
  attempt_id bigint not null,
  rank integer not null,
  position bigint default 0 not null,
  head bigint default 0 not null,
  received_bytes bigint default 0 not null,
  kept_bytes bigint default 0 not null,
  is_whole boolean default false not null,
  at timestamptz default now() not null,
  constraint pk_logs primary key (attempt_id, rank),
  constraint ck_logs_range check (rank >= 0 and position >= 0 and head >= 0),
  constraint ck_logs_bytes check (received_bytes >= kept_bytes and kept_bytes >= 0),
  constraint fk_logs_attempt_id foreign key (attempt_id) references task_attempts (id)
)
"""
# Nothing was ever written there.
_CHUNKS = """
alter table log_chunks
  add column content_bytes bigint not null,
  add column dropped_at timestamptz,
  drop constraint ck_log_chunks_range,
  add constraint ck_log_chunks_range
    check (position >= 0 and length > 0 and size_bytes > 0 and content_bytes > 0)
"""
# Who follows its output hears of the end as of a new chunk.
_ATTEMPT_ENDED = """
create function attempt_ended() returns trigger language plpgsql as $$
begin
  perform pg_notify('logs', new.id::text);
  return null;
end
$$;
create trigger task_attempts_ended after update of state on task_attempts for each row
  when (new.state = 'ended' and old.state <> 'ended') execute function attempt_ended()
"""


def upgrade() -> None:
    op.execute(_LOGS)
    op.execute(_CHUNKS)
    op.execute("create index ix_log_chunks_dropped on log_chunks (dropped_at) where dropped_at is not null")
    op.execute(_ATTEMPT_ENDED)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
