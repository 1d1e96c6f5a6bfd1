"""Windows are kept in series, as they come in batches; what was posted for a meter is summed hour by hour.

`usage_windows` becomes a view with the rows that the table had.

Revision ID: 0029
Revises: 0028
"""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_SERIES = """
create table usage_series (
    id bigserial constraint pk_usage_series primary key,
    host_id bigint not null constraint fk_usage_series_host_id references hosts,
    boot_id varchar not null,
    allocation_uid varchar not null,
    generation bigint not null,
    container_id varchar not null,
    device_uuid varchar not null,
    milli bigint not null,
    first_sequence bigint not null,
    last_sequence bigint not null,
    step bigint not null,
    cuts_ms bigint[] not null,
    billed_from_ms bigint,
    billed_to_ms bigint,
    received_at timestamptz not null default now(),
    quarantine varchar,
    constraint ck_usage_series_windows check (cardinality(cuts_ms) between 2 and 1048576 and step > 0),
    constraint ck_usage_series_sequences check (last_sequence = first_sequence + step * (cardinality(cuts_ms) - 2)),
    constraint ck_usage_series_billed check ((billed_from_ms is null) = (billed_to_ms is null)),
    constraint ck_usage_series_part check (
        billed_from_ms is null or (quarantine is not null and cardinality(cuts_ms) = 2
        and billed_to_ms > billed_from_ms and billed_from_ms >= cuts_ms[1] and billed_to_ms <= cuts_ms[2])
    )
)
"""
_RECEIVED = """
create table usage_received (
    host_id bigint not null constraint fk_usage_received_host_id references hosts,
    boot_id varchar not null,
    sequences int8multirange not null,
    constraint pk_usage_received primary key (host_id, boot_id)
)
"""
_SUMS = """
create table usage_sums (
    customer_id bigint not null,
    hour timestamptz not null,
    meter_id bigint not null constraint fk_usage_sums_meter_id references usage_meters,
    duration_ms bigint not null,
    amount_micro bigint not null,
    constraint pk_usage_sums primary key (customer_id, hour, meter_id)
)
"""
_INDICES = (
    "create index ix_usage_series_allocation_uid on usage_series (allocation_uid)",
    "create index ix_usage_series_sequences on usage_series (host_id, boot_id, last_sequence)",
    "create index ix_usage_series_quarantine on usage_series (host_id, id) where quarantine is not null",
    # The statement reads the sums of usage, and every posting of the rest.
    "create index ix_journal_transactions_not_usage on journal_transactions (customer_id, at) where kind <> 'usage'",
)
_MOVE = (
    # A window without quarantine counts whole, and one that counts in part is alone in its series.
    """
    insert into usage_series (id, host_id, boot_id, allocation_uid, generation, container_id, device_uuid, milli,
        first_sequence, last_sequence, step, cuts_ms, billed_from_ms, billed_to_ms, received_at, quarantine)
    select id, host_id, boot_id, allocation_uid, generation, container_id, device_uuid, milli,
        sequence, sequence, 1, array[from_ms, to_ms],
        case when quarantine is not null then billed_from_ms end,
        case when quarantine is not null then billed_to_ms end, received_at, quarantine
    from usage_windows order by id
    """,
    "select setval('usage_series_id_seq', (select coalesce(max(id), 0) + 1 from usage_series), false)",
    """
    insert into usage_received (host_id, boot_id, sequences)
    select host_id, boot_id, range_agg(int8range(sequence, sequence, '[]')) from usage_windows
    where quarantine is distinct from 'sequence_reused' and sequence < 9223372036854775807 group by 1, 2
    """,
    """
    insert into usage_sums (customer_id, hour, meter_id, duration_ms, amount_micro)
    select t.customer_id, date_trunc('hour', t.at, 'UTC'), p.meter_id, sum(p.duration_ms), -sum(p.amount_micro)
    from postings p join journal_transactions t on t.id = p.transaction_id where p.meter_id is not null group by 1, 2, 3
    """,
    "drop table usage_windows",
)
_VIEW = """
create view usage_windows as
select (s.id << 20) + w.place as id, s.host_id, s.boot_id, s.first_sequence + s.step * (w.place - 1) as sequence,
    s.allocation_uid, s.generation, s.container_id, s.device_uuid, s.milli, w.from_ms, w.to_ms,
    case when s.quarantine is null then w.from_ms else s.billed_from_ms end as billed_from_ms,
    case when s.quarantine is null then w.to_ms else s.billed_to_ms end as billed_to_ms,
    s.received_at, s.quarantine
from usage_series s,
    unnest(trim_array(s.cuts_ms, 1), s.cuts_ms[2:]) with ordinality as w (from_ms, to_ms, place)
"""
# By its transaction's row (`offset 0`: one look-up each, whatever the planner knows of tables that grow).
_SUM = """
create function sum_usage() returns trigger language plpgsql as $$
begin
    insert into usage_sums (customer_id, hour, meter_id, duration_ms, amount_micro)
    select t.customer_id, date_trunc('hour', t.at, 'UTC'), p.meter_id, sum(p.duration_ms), -sum(p.amount_micro)
    from added p
        cross join lateral (select customer_id, at from journal_transactions where id = p.transaction_id offset 0) t
    where p.meter_id is not null group by 1, 2, 3 order by 1, 2, 3
    on conflict (customer_id, hour, meter_id) do update
        set duration_ms = usage_sums.duration_ms + excluded.duration_ms,
            amount_micro = usage_sums.amount_micro + excluded.amount_micro;
    return null;
end $$
"""


def upgrade() -> None:
    for statement in (_SERIES, _RECEIVED, _SUMS, *_MOVE, *_INDICES, _VIEW, _SUM):
        op.execute(statement)
    op.execute(
        "create trigger append_only before update or delete on usage_series"
        " for each row execute function refuse_change()"
    )
    op.execute(
        "create trigger append_only_truncate before truncate on usage_series"
        " for each statement execute function refuse_change()"
    )
    op.execute(
        "create trigger sum_usage after insert on postings referencing new table as added"
        " for each statement execute function sum_usage()"
    )


def downgrade() -> None:
    raise NotImplementedError("the schema only moves forward: restore a backup instead")
