"""An exported bill holds, whatever happened; and everything that is changed in it is found, at its first bad line."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api.billing.statement import Period, totals
from api.clock import utc_now
from api.db import Database
from api.settings import Settings
from remotegpu.bill import BadLine
from tests.db.bill_world import BEGINNING, BillWorld, check
from tests.db.ledger_world import World


@pytest.fixture
def bills(database: Database, settings: Settings) -> BillWorld:
    return BillWorld(World(database), settings)


@pytest.mark.parametrize("seed", range(4))
def test_the_bill_of_a_random_life_holds_and_says_what_the_statement_says(bills: BillWorld, seed: int) -> None:
    customer = bills.world.customer(balance_micro=10**9)
    bills.live(customer, seed=seed)
    found = check(bills.export(customer))
    with bills.database.session() as session:
        said = totals(session, customer.id, Period(BEGINNING, utc_now() + timedelta(days=1)))
    assert (found.amount_micro, found.duration_ms) == (said.usage_micro, said.duration_ms)
    assert found.records > 10 and found.windows > 10 and found.transactions > 5
    assert not found.closed and found.unsealed_ms == 0
