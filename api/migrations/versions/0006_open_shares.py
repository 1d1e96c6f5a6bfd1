"""Shares of devices exclude each other only while they are open, and the loop is not told what it did itself.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_HOLDS = "host_id is not null and released_at is null"

# The store of the loop sets `remotegpu.scheduler` in its transactions, and remembers what they change.
_OWN = "current_setting('remotegpu.scheduler', true) = 'on'"
_OF_ALLOCATIONS = (
    "state, generation, host_ids, priority, not_before, capacity_group_id, reservation_id, preemptible,"
    " min_runtime_s, limit_s, checkpoint_at"
)


def upgrade() -> None:
    op.execute(
        "alter table allocation_devices drop constraint ex_allocation_devices_one_owner,"
        " drop constraint pk_allocation_devices, drop column id,"
        " add constraint pk_allocation_devices primary key (allocation_id, generation, gpu_id, milli_from),"
        " add constraint ex_allocation_devices_one_owner exclude using gist"
        " (int8range(gpu_id * 1000 + milli_from, gpu_id * 1000 + milli_to) with &&) where (upper_inf(period))"
    )
    op.execute("drop index ix_allocation_devices_allocation_id")
    op.execute(f"create index ix_allocations_holding_host on allocations (host_id) where {_HOLDS}")
    op.execute(f"create index ix_allocations_holding_hosts on allocations (id) where {_HOLDS} and nodes > 1")
    old, new = (", ".join(f"{row}.{column}" for column in _OF_ALLOCATIONS.split(", ")) for row in ("old", "new"))
    op.execute("drop trigger note_update on allocations")
    op.execute(
        f"create trigger note_update after update on allocations for each row"
        f" when (({old}) is distinct from ({new}) and {_OWN} is not true) execute function note_allocation()"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
