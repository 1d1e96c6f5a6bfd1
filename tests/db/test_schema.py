"""The migrated schema is the one that the tables describe, and a newer one is refused."""

from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg.errors import ExclusionViolation
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from api.billing.accounts import AccountKind
from api.db import Database
from api.migrations.migrate import NewerSchemaError, config, migrate
from api.tables import metadata
from deploy.postgres import EmbeddedPostgres

_DEVICES = """
insert into allocation_devices (id, allocation_id, generation, gpu_id, milli_from, milli_to, period) values
  (1, 1, 1, 7, 0, 1000, tstzrange('2026-01-01', null)),
  (2, 1, 1, 9, 0, 1000, tstzrange('2026-01-01', null)),
  (3, 2, 1, 8, 0, 300, tstzrange('2026-01-01', null)),
  (4, 3, 1, 8, 300, 900, tstzrange('2026-01-01', null)),
  (5, 4, 1, 7, 0, 1000, tstzrange('2025-01-01', '2025-02-01')),
  (6, 4, 2, 10, 0, 1000, tstzrange('2026-01-01', null)),
  (7, 5, 1, 11, 0, 1000, tstzrange('2025-01-01', '2025-02-01'))
"""
_TAKE = (
    "insert into allocation_devices (allocation_id, generation, gpu_id, milli_from, milli_to, period)"
    " values (6, 1, {}, 1000, tstzrange(now(), null))"
)


@pytest.fixture
def empty(postgres: EmbeddedPostgres) -> Iterator[Engine]:
    """A database without any table."""
    postgres.ensure_database("test_empty")
    database = Database(postgres.url("test_empty"))
    yield database.engine
    database.close()
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("drop database test_empty with (force)")


def test_migrations_lead_to_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_twice_changes_nothing(database: Database) -> None:
    migrate(database.engine)


def test_a_newer_schema_is_refused(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(NewerSchemaError, match="9999"):
        migrate(database.engine)


def test_what_is_open_when_claims_are_introduced_is_guarded_from_then_on(empty: Engine) -> None:
    alembic = config()
    with empty.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, "0007")
    # There is nothing of what these rows refer to.
    write(empty, "set local session_replication_role = replica", _DEVICES)
    write(empty, "alter table allocation_devices drop constraint fk_allocation_devices_allocation_id")
    migrate(empty)
    assert claims(empty) == {
        1: "{[7000,8000),[9000,10000)}",
        2: "{[8000,8300)}",
        3: "{[8300,8900)}",
        4: "{[10000,11000)}",
    }
    for taken in ("7, 0", "8, 899", "8, 299"):
        with pytest.raises(IntegrityError) as caught:
            write(empty, _TAKE.format(taken))
        assert isinstance(caught.value.orig, ExclusionViolation)
    write(empty, "update allocation_devices set period = tstzrange(lower(period), now()) where gpu_id = 7")
    write(empty, _TAKE.format("7, 0"), _TAKE.format("8, 900"))
    write(empty, "delete from allocation_devices where allocation_id = 4")
    assert claims(empty) == {
        1: "{[9000,10000)}",
        2: "{[8000,8300)}",
        3: "{[8300,8900)}",
        6: "{[7000,8000),[8900,9000)}",
    }


def test_customers_with_accounts_get_the_kinds_that_are_new(empty: Engine) -> None:
    alembic = config()
    with empty.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, "0026")
    customers = "(1, gen_random_uuid(), 'one'), (2, gen_random_uuid(), 'two'), (3, gen_random_uuid(), 'none')"
    write(empty, f"insert into customers (id, uid, name) values {customers}")
    owners, kinds = "(1, 'USD'), (1, 'EUR'), (2, 'USD')", "('wallet'), ('holds'), ('revenue'), ('funding')"
    write(
        empty,
        "insert into accounts (uid, customer_id, currency, kind) select gen_random_uuid(), o.*, k.*"
        f" from (values {owners}) o cross join (values {kinds}) k",
    )
    migrate(empty)
    with empty.connect() as connection:
        found = connection.execute(text("select customer_id, currency, array_agg(kind) from accounts group by 1, 2"))
        accounts = {(customer_id, currency): sorted(kinds) for customer_id, currency, kinds in found}
    assert accounts == dict.fromkeys([(1, "USD"), (1, "EUR"), (2, "USD")], sorted(AccountKind))


def claims(engine: Engine) -> dict[int, str]:
    with engine.connect() as connection:
        found = connection.execute(text("select allocation_id, shares::text from device_claims"))
        return {row.allocation_id: row.shares for row in found}


def write(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for sql in statements:
            connection.execute(text(sql))
