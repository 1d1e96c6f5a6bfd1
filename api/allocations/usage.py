"""What workspaces have used of late, decayed, from the history of their allocations."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from scheduler.views import Usage

# The integral of 2^(-age / half life) over the time that an allocation held its devices, in seconds. What ended twelve
# half-lives ago counts for less than a four-thousandth and is left out.
_USAGE = text(
    """
    select customer_id, workspace_id,
      sum(weighed_s * nodes * gpus * milli), sum(weighed_s * nodes * cpu_milli), sum(weighed_s * nodes * memory_bytes)
    from allocations, lateral (
      select (2 ^ (-extract(epoch from cast(:now as timestamptz) - least(released_at, :now))::float8 / :half_life_s)
        - 2 ^ (-extract(epoch from cast(:now as timestamptz) - least(placed_at, :now))::float8 / :half_life_s))
        * :half_life_s / ln(2::float8) as weighed_s
    ) as decayed
    where state <> 'queued' and placed_at is not null
      and (released_at is null or released_at > cast(:now as timestamptz) - make_interval(secs => 12 * :half_life_s))
    group by customer_id, workspace_id order by customer_id, workspace_id
    """
)


def load_usage(session: Session, *, half_life_s: float, now: datetime) -> list[Usage]:
    """Decayed use as of `now`, of what has ended and of what runs up to now. Reads the history: seldom."""
    rows = session.execute(_USAGE, {"now": now, "half_life_s": half_life_s})
    return [
        Usage(customer_id, workspace_id, now, gpu_milli_s, cpu_milli_s, memory_byte_s)
        for customer_id, workspace_id, gpu_milli_s, cpu_milli_s, memory_byte_s in rows
    ]
