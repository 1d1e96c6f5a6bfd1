"""One controller leads, and one that does not lead any more knows."""

import pytest
from sqlalchemy import text

from api.allocations.leadership import acquire, release
from api.db import Database
from tests.db.fleet import Fleet


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return Fleet(database)


def test_one_leads_at_a_time(fleet: Fleet) -> None:
    with fleet.database.engine.connect() as one, fleet.database.engine.connect() as two:
        first = acquire(one)
        assert first is not None and first.alive()
        assert acquire(two) is None
        release(first)
        second = acquire(two)
        assert second is not None and second.epoch == first.epoch + 1
        release(second)


def test_a_leader_whose_connection_died_knows(fleet: Fleet) -> None:
    with fleet.database.engine.connect() as one, fleet.database.engine.connect() as two:
        first = acquire(one)
        assert first is not None
        pid = one.execute(text("select pg_backend_pid()")).scalar_one()
        two.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})
        assert not first.alive()
