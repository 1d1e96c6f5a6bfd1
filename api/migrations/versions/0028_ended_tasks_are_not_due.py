"""A task that has ended is not made due by the release of its allocation.

Revision ID: 0028
Revises: 0027
"""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# A task ends as soon as its host says that nothing of it runs: its allocation is released after that.
_ALLOCATION_CHANGED = """
create or replace function allocation_changed() returns trigger language plpgsql as $$
begin
  if new.kind = 'task' then
    if new.state is distinct from old.state and new.state in ('releasing', 'released') then
      update tasks set due_at = now()
        where allocation_id = new.id
        and (state in ('starting', 'running') or (new.state = 'released' and ended_at is null));
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
