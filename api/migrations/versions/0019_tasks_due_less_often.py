"""A task is due when its allocation begins to end only if something of it is told to run then.

Revision ID: 0019
Revises: 0018
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# What has ended by itself is stopping already, and of what has not begun there is nothing to stop.
_ALLOCATION_CHANGED = """
create or replace function allocation_changed() returns trigger language plpgsql as $$
begin
  if new.kind = 'task' then
    if new.state is distinct from old.state and new.state in ('releasing', 'released') then
      update tasks set due_at = now()
        where allocation_id = new.id and (new.state = 'released' or state in ('starting', 'running'));
    end if;
  else
    update environments set version = version + 1 where allocation_id = new.id;
  end if;
  return null;
end
$$
"""


def upgrade() -> None:
    op.execute(_ALLOCATION_CHANGED)


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
