"""The books of a running platform, read in its database: the journal balances, and no device has two owners."""

from sqlalchemy import text

from api.billing.verify import check
from api.db import Database
from deploy.instance import Instance
from deploy.programs import database_url

_OVERLAPS = """
select count(*) from allocation_devices a join allocation_devices b on a.ctid < b.ctid and a.gpu_id = b.gpu_id
where a.period && b.period and int4range(a.milli_from, a.milli_to) && int4range(b.milli_from, b.milli_to)
"""


def assert_books(instance: Instance) -> None:
    """The journal balances and every charge is what was proven; no device has two owners."""
    database = Database(database_url(instance), pool_size=1)
    try:
        with database.session() as session:
            assert check(session) == []
            assert session.scalar(text(_OVERLAPS)) == 0
    finally:
        database.close()
