"""What is open of devices is guarded by a row for each allocation, and the loop is not told what it did itself.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_HOLDS = "host_id is not null and released_at is null"

# The store of the loop sets `remotegpu.scheduler` in its transactions, and remembers what they change.
_OWN = "current_setting('remotegpu.scheduler', true) = 'on'"
_OF_ALLOCATIONS = (
    "state, generation, host_ids, priority, not_before, capacity_group_id, reservation_id, preemptible,"
    " min_runtime_s, limit_s, checkpoint_at"
)

# A thousand for each device: the shares of all devices are on one line.
_OPEN = "select allocation_id, range_agg(int8range(gpu_id * 1000 + milli_from, gpu_id * 1000 + milli_to))"
_CLAIM = f"""
create function claim_devices() returns trigger language plpgsql as $$
begin
  insert into device_claims {_OPEN} from written where upper_inf(period) group by allocation_id
  on conflict (allocation_id) do update set shares = device_claims.shares + excluded.shares;
  return null;
end
$$
"""
_SETTLE = f"""
create function settle_claims() returns trigger language plpgsql as $$
begin
  delete from device_claims where allocation_id in (select allocation_id from written);
  insert into device_claims {_OPEN} from allocation_devices
  where allocation_id in (select allocation_id from written) and upper_inf(period) group by allocation_id;
  return null;
end
$$
"""


def upgrade() -> None:
    op.execute(
        "alter table allocation_devices drop constraint ex_allocation_devices_one_owner,"
        " drop constraint fk_allocation_devices_gpu_id, drop constraint pk_allocation_devices, drop column id,"
        " add constraint pk_allocation_devices primary key (allocation_id, generation, gpu_id, milli_from)"
    )
    op.execute(
        "create table device_claims ("
        " allocation_id bigint constraint pk_device_claims primary key, shares int8multirange not null,"
        " constraint ex_device_claims_one_owner exclude using gist (shares with &&))"
    )
    op.execute(_CLAIM)
    op.execute(_SETTLE)
    op.execute(
        f"insert into device_claims {_OPEN} from allocation_devices where upper_inf(period) group by allocation_id"
    )
    for event, old_or_new, function in (
        ("insert", "new", "claim_devices"),
        ("update", "new", "settle_claims"),
        ("delete", "old", "settle_claims"),
    ):
        op.execute(
            f"create trigger claim_{event} after {event} on allocation_devices"
            f" referencing {old_or_new} table as written for each statement execute function {function}()"
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
