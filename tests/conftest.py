"""Fixtures shared by all tests: a PostgreSQL server per session, a migrated database per test."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest

from api.db import Database
from api.migrations.migrate import migrate
from deploy.postgres import EmbeddedPostgres

# Suites run side by side: how long one example takes says nothing about the code.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

_TEMPLATE = "remotegpu_template"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory for this test session, short enough for Unix sockets and open to unprivileged uids."""
    path = Path(tempfile.mkdtemp(prefix="rgt-", dir="/var/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[EmbeddedPostgres]:
    """A real server with a migrated template database. It need not survive the machine: nothing waits for a disk."""
    server = EmbeddedPostgres(scratch / "pg")
    server.start()
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"alter system set {setting} = off")
        connection.execute("select pg_reload_conf()")
    server.ensure_database(_TEMPLATE)
    database = Database(server.url(_TEMPLATE))
    migrate(database.engine)
    database.close()
    yield server
    server.stop()


@pytest.fixture
def database_name(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh migrated database, dropped after the test."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} template {_TEMPLATE} strategy file_copy")
        yield name
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def database(postgres: EmbeddedPostgres, database_name: str) -> Iterator[Database]:
    database = Database(postgres.url(database_name))
    yield database
    database.close()
