"""Volumes that are being deleted are found at once; the scheduler hears of a request that is bound to another host.

Revision ID: 0017
Revises: 0016
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_COLUMNS = (
    "state, generation, host_ids, priority, not_before, capacity_group_id, reservation_id, preemptible,"
    " min_runtime_s, limit_s, checkpoint_at, bound_host_id"
)


def upgrade() -> None:
    op.execute("create index ix_volumes_deleting on volumes (id) where delete_at is not null and deleted_at is null")
    old, new = (", ".join(f"{row}.{column}" for column in _COLUMNS.split(", ")) for row in ("old", "new"))
    op.execute("drop trigger note_update on allocations")
    op.execute(
        "create trigger note_update after update on allocations for each row"
        f" when (({old}) is distinct from ({new})) execute function note_allocation()"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
