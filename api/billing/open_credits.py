"""What is left of promotion credit: what its rows say, less what was charged since they were written."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.accounts import Owner
from api.bulk import document, recordset
from scheduler.credits import spend

_OPEN = text(
    "select p.customer_id, p.currency, p.id, p.expires_at, p.left_micro,"
    " greatest(0, coalesce(a.balance_micro, 0) - p.revenue_seen_micro) as used_micro"
    f" from promotions p join {recordset(customer_id='bigint', currency='text')} using (customer_id, currency)"
    " left join accounts a on a.customer_id = p.customer_id and a.currency = p.currency and a.kind = 'revenue'"
    " where p.closed_at is null order by p.customer_id, p.currency, p.expires_at, p.id"
)


@dataclass(frozen=True, slots=True)
class Credit:
    id: int
    expires_at: datetime
    left_micro: int


def read_credits(session: Session, owners: Collection[Owner]) -> Mapping[Owner, tuple[Credit, ...]]:
    """The open credits of several owners, in the order in which they are spent. Those without any are missing.

    Exact under the locks of the owners' accounts; without them as of a moment ago.
    """
    if not owners:
        return {}
    wanted = document([{"customer_id": customer_id, "currency": currency} for customer_id, currency in sorted(owners)])
    found = {}
    rows = session.execute(_OPEN, {"rows": wanted})
    for owner, group in groupby(rows, key=lambda row: (row.customer_id, row.currency)):
        written = list(group)
        left = spend([row.left_micro for row in written], written[0].used_micro)  # all were written at one moment
        found[owner] = tuple(
            Credit(row.id, row.expires_at, left_micro) for row, left_micro in zip(written, left, strict=True)
        )
    return found
