"""When the controller looks at a task again; holds name the task that they are for.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# The end of its allocation, at whoever's word, makes a task due. Why it waits is the allocation's, and no news of it.
_ALLOCATION_CHANGED = """
create or replace function allocation_changed() returns trigger language plpgsql as $$
begin
  if new.kind = 'task' then
    if new.state is distinct from old.state and new.state in ('releasing', 'released') then
      update tasks set due_at = now() where allocation_id = new.id;
    end if;
  else
    update environments set version = version + 1 where allocation_id = new.id;
  end if;
  return null;
end
$$
"""


def upgrade() -> None:
    op.execute("alter table tasks rename column queue_at to due_at")
    op.execute("create index ix_tasks_due on tasks (due_at) where due_at is not null")
    op.execute(
        "alter table holds add column task_id bigint,"
        " add constraint fk_holds_task_id foreign key (task_id) references tasks (id)"
    )
    op.execute(_ALLOCATION_CHANGED)
    op.execute("drop trigger allocations_changed on allocations")
    op.execute(
        "create trigger allocations_changed after update on allocations for each row"
        " when (new.kind in ('environment', 'task') and (old.state, old.generation, old.host_id, old.wait_reason)"
        " is distinct from (new.state, new.generation, new.host_id, new.wait_reason))"
        " execute function allocation_changed()"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
