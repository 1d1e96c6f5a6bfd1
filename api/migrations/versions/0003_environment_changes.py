"""An environment's version rises, and listeners hear of it, with every change that its views show.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ENVIRONMENT_CHANGED = """
create function environment_changed() returns trigger language plpgsql as $$
begin
  if new is distinct from old then
    new.version := old.version + 1;
    perform pg_notify('environments', new.id::text);
  end if;
  return new;
end
$$
"""

_ENVIRONMENT_CREATED = """
create function environment_created() returns trigger language plpgsql as $$
begin
  perform pg_notify('environments', new.id::text);
  return null;
end
$$
"""

# `run_until` moves with every heartbeat and is left out: nobody waits for it.
_ALLOCATION_CHANGED = """
create function allocation_changed() returns trigger language plpgsql as $$
begin
  update environments set version = version + 1 where allocation_id = new.id;
  return null;
end
$$
"""


def upgrade() -> None:
    op.execute(_ENVIRONMENT_CHANGED)
    op.execute(_ENVIRONMENT_CREATED)
    op.execute(_ALLOCATION_CHANGED)
    op.execute(
        "create trigger environments_changed before update on environments"
        " for each row execute function environment_changed()"
    )
    op.execute(
        "create trigger environments_created after insert on environments"
        " for each row execute function environment_created()"
    )
    op.execute(
        "create trigger allocations_changed after update on allocations for each row"
        " when ((old.state, old.generation, old.host_id, old.wait_reason)"
        " is distinct from (new.state, new.generation, new.host_id, new.wait_reason))"
        " execute function allocation_changed()"
    )


def downgrade() -> None:
    op.execute("drop trigger allocations_changed on allocations")
    op.execute("drop trigger environments_created on environments")
    op.execute("drop trigger environments_changed on environments")
    op.execute("drop function allocation_changed()")
    op.execute("drop function environment_created()")
    op.execute("drop function environment_changed()")
