"""Checking the books: everything that could be derived from the journal is, and compared with what is stored."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from scheduler.money import cumulative_charge_micro

MAX_FINDINGS = 100

_UNBALANCED = """
select format('journal transaction %s sums to %s, not to zero', transaction_id, sum(amount_micro))
from postings group by transaction_id having sum(amount_micro) <> 0 limit :most
"""
_BALANCES = """
select format('account %s (%s of customer %s) has balance %s, its postings sum to %s',
              a.id, a.kind, a.customer_id, a.balance_micro, coalesce(p.total, 0))
from accounts a left join (select account_id, sum(amount_micro) total from postings group by account_id) p
  on p.account_id = a.id
where a.balance_micro <> coalesce(p.total, 0) limit :most
"""
_CUSTOMERS = """
select format('the accounts of customer %s in %s sum to %s, not to zero', customer_id, currency, sum(balance_micro))
from accounts group by customer_id, currency having sum(balance_micro) <> 0 limit :most
"""
_HOLDS = """
select format('the holds account of customer %s in %s has %s, their holds sum to %s',
              a.customer_id, a.currency, a.balance_micro, coalesce(h.total, 0))
from accounts a left join (
  select holds.customer_id, price_versions.currency, sum(amount_micro) total
  from holds join price_versions on price_versions.id = price_version_id group by 1, 2
) h on h.customer_id = a.customer_id and h.currency = a.currency
where a.kind = 'holds' and a.balance_micro <> coalesce(h.total, 0) limit :most
"""
_INTERVALS = """
select format('meter %s has proven %s ms, its intervals sum to %s', m.id, m.proven_ms, coalesce(i.total, 0))
from usage_meters m left join (select meter_id, sum(to_ms - from_ms) total from usage_intervals group by meter_id) i
  on i.meter_id = m.id
where m.proven_ms <> coalesce(i.total, 0) limit :most
"""
_POSTINGS = """
select format('meter %s was charged %s for %s ms, its postings say %s for %s ms',
              m.id, m.charged_micro, m.proven_ms, -coalesce(p.amount, 0), coalesce(p.duration, 0))
from usage_meters m left join (
  select meter_id, sum(amount_micro) amount, sum(duration_ms) duration from postings
  where meter_id is not null group by meter_id
) p on p.meter_id = m.id
where m.charged_micro <> -coalesce(p.amount, 0) or m.proven_ms <> coalesce(p.duration, 0) limit :most
"""
_WINDOWS = """
select format('meter %s has proven %s ms, the union of its windows is %s ms', m.id, m.proven_ms, coalesce(w.total, 0))
from usage_meters m join allocations a on a.id = m.allocation_id join gpus g on g.id = m.gpu_id
left join lateral (
  select sum(upper(part) - lower(part)) total from unnest((
    select range_agg(int8range(billed_from_ms, billed_to_ms))
           * int8multirange(int8range(m.price_from_ms, (
               select until_ms from hold_prices where allocation_id = m.allocation_id and generation = m.generation
                 and from_ms = m.price_from_ms)))
    from usage_windows
    where allocation_uid = a.uid::text and generation = m.generation and device_uuid = g.uuid
      and billed_from_ms is not null
  )) part
) w on true
where m.proven_ms <> coalesce(w.total, 0) limit :most
"""
_PRICES = """
select format('%s %s has a price of %s an hour, its version asks for %s on its terms',
              kind, id, price, asked * (1000 - permille) / 1000)
from (
  select kind, s.id, s.price, p.price_micro asked, case s.terms when 'preemptible' then preemptible_discount_permille
    when 'reserved' then reserved_discount_permille else 0 end permille
  from (
    select 'meter' kind, id::text, price_version_id, terms, price_micro_per_gpu_hour price from usage_meters
    union all
    select 'hold', format('%s:%s', allocation_id, generation), price_version_id, terms, price_micro_per_gpu_hour
    from holds
    union all
    select 'hold', format('%s:%s', allocation_id, generation), price_version_id, terms, price_micro_per_gpu_hour
    from hold_prices
  ) s join price_versions p on p.id = s.price_version_id
) priced
where price <> asked * (1000 - permille) / 1000 limit :most
"""
_RECORDS = """
select format('meter %s is sealed for %s ms, its records sum to %s, or one does not follow the one before',
              s.meter_id, s.sealed_ms, coalesce(r.total, 0))
from sealed_meters s left join (
  select r.meter_id, sum(r.to_ms - r.from_ms) total, bool_and(b.hash is not distinct from case r.sequence
    when 1 then null else r.previous end) linked
  from usage_records r left join usage_records b on b.customer_id = r.customer_id and b.sequence = r.sequence - 1
  group by r.meter_id
) r using (meter_id)
join usage_meters m on m.id = s.meter_id
where s.sealed_ms <> coalesce(r.total, 0) or not coalesce(r.linked, true) or s.sealed_ms > m.proven_ms limit :most
"""
_STRETCHES = """
select format('meter %s counts at a price that its hold did not have then', m.id) from usage_meters m
where (m.price_from_ms, m.price_version_id, m.terms, m.price_micro_per_gpu_hour) not in (
  select price_from_ms, price_version_id, terms, price_micro_per_gpu_hour from holds h
  where h.allocation_id = m.allocation_id and h.generation = m.generation
  union all
  select from_ms, price_version_id, terms, price_micro_per_gpu_hour from hold_prices p
  where p.allocation_id = m.allocation_id and p.generation = m.generation
) limit :most
"""
_PROMISES = """
select format('the prices of hold %s:%s do not follow one another', h.allocation_id, h.generation) from holds h
left join (select allocation_id, generation, sum(until_ms - from_ms) total from hold_prices group by 1, 2) p
  using (allocation_id, generation)
where h.price_from_ms - h.starts_ms <> coalesce(p.total, 0) or h.covers_until_ms > h.price_until_ms limit :most
"""
_RECEIVED = """
select format('host %s, boot %s: the sequence numbers received are not those of the windows', u.host_id, u.boot_id)
from usage_received u where u.sequences is distinct from (
  select range_agg(int8range(sequence, sequence, '[]')) from usage_windows w
  where w.host_id = u.host_id and w.boot_id = u.boot_id and w.quarantine is distinct from 'sequence_reused'
) limit :most
"""
_REPEATED = """
select format('host %s, boot %s: the sequence number %s counts %s times', host_id, boot_id, sequence, count(*))
from usage_windows where quarantine is distinct from 'sequence_reused'
group by host_id, boot_id, sequence having count(*) > 1 limit :most
"""
_SUMS = """
select format('meter %s: the sums of %s are %s and %s ms, its postings then say %s and %s ms', meter_id, hour,
              s.amount_micro, s.duration_ms, p.amount_micro, p.duration_ms)
from usage_sums s full join (
  select t.customer_id, date_trunc('hour', t.at, 'UTC') as hour, meter_id,
         -sum(amount_micro) as amount_micro, sum(duration_ms) as duration_ms
  from postings join journal_transactions t on t.id = transaction_id where meter_id is not null group by 1, 2, 3
) p using (customer_id, hour, meter_id)
where (s.amount_micro, s.duration_ms) is distinct from (p.amount_micro, p.duration_ms) limit :most
"""
_CHARGES = """
select id, charged_micro, proven_ms, milli, price_micro_per_gpu_hour from usage_meters
"""
_EVERY = (
    *(_UNBALANCED, _BALANCES, _CUSTOMERS, _HOLDS, _INTERVALS, _POSTINGS, _WINDOWS),
    *(_RECEIVED, _REPEATED, _SUMS, _PRICES, _STRETCHES, _PROMISES, _RECORDS),
)


def check(session: Session) -> list[str]:
    """What is wrong with the books, in sentences; empty if they are right. At most MAX_FINDINGS of each kind.

    Reads everything once: for tests and `remotegpud doctor`, not for every minute.
    """
    findings: list[str] = []
    for query in _EVERY:
        findings += session.scalars(text(query), {"most": MAX_FINDINGS})
    return findings + _wrong_charges(session)


def _wrong_charges(session: Session) -> list[str]:
    """Meters whose charge is not the one rounding of price, share and proven time."""
    findings = []
    for meter_id, charged, proven_ms, milli, price in session.execute(text(_CHARGES)):
        right = cumulative_charge_micro(price_micro_per_gpu_hour=price, milli=milli, duration_ms=proven_ms)
        if charged != right:
            findings.append(f"meter {meter_id} was charged {charged} for {proven_ms} ms, which cost {right}")
    return findings[:MAX_FINDINGS]
