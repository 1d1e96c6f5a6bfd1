"""The databases: made, migrated, seeded with the catalogue and the first administrator."""

from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from api.db import Database
from api.identity.bootstrap import ensure_admin
from api.identity.tables import User
from api.images.catalogue import seed
from api.migrations.migrate import NewerSchemaError, migrate
from api.principal import Role
from deploy.instance import REPOSITORY, Instance
from deploy.programs import database_url, embedded_postgres, hub_database_url, sqlalchemy_url
from deploy.progress import StepError
from deploy.secrets import new_password, write_secret

_PASSWORD = "admin_password"
_OLDEST = 15  # version of PostgreSQL
CATALOGUE = REPOSITORY / "images" / "catalogue.yaml"


def check_urls(instance: Instance) -> None:
    """The external databases are named as they must be.

    Raises:
        StepError: one is not.
    """
    for option, url in (("--database-url", instance.database_url), ("--hub-database-url", instance.hub_database_url)):
        if not url:
            continue
        try:
            parsed = make_url(sqlalchemy_url(url))
        except ArgumentError:
            parsed = None
        # What it says is not repeated: it may hold a password.
        if parsed is None or parsed.drivername != "postgresql+psycopg" or not parsed.database:
            raise StepError(f"{option} can't be used: give it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE")


def migrate_databases(instance: Instance) -> None:
    """Make both databases and bring the platform's to this version's schema.

    Raises:
        StepError: the database is newer than this version, or an external server refuses.
    """
    server = embedded_postgres(instance)
    try:
        for url in (database_url(instance), hub_database_url(instance)):
            name = make_url(url).database or ""
            if server is not None:
                server.ensure_database(name)
            else:
                _ensure_external(url, name)
        database = Database(database_url(instance), pool_size=1)
        try:
            migrate(database.engine)
        finally:
            database.close()
    except NewerSchemaError as error:
        raise StepError(str(error)) from error
    except psycopg.Error as error:
        raise StepError(f"the database server refused: {error}") from error


def seed_database(instance: Instance) -> None:
    """The image catalogue, and the first administrator with the generated password in `secrets/admin_password`."""
    database = Database(database_url(instance), pool_size=1)
    try:
        seed(database, Path(CATALOGUE))
        # The password is kept before the administrator exists: a crash in between loses nothing.
        write_secret(instance.secrets, _PASSWORD, new_password())
        ensure_admin(database, password=(instance.secrets / _PASSWORD).read_text().strip())
    finally:
        database.close()


def first_password(instance: Instance) -> str | None:
    """The first administrator's generated password, as long as it must still be changed."""
    database = Database(database_url(instance), pool_size=1)
    try:
        unchanged = database.transact(
            lambda session: session.scalar(
                select(User.must_change_password).where(User.role == Role.ADMIN).order_by(User.id).limit(1)
            )
        )
    finally:
        database.close()
    return (instance.secrets / _PASSWORD).read_text().strip() if unchanged else None


def _ensure_external(url: str, name: str) -> None:
    """Create a database on a server that is not ours, if it is not there and we may.

    Raises:
        StepError: the server is too old, or we may not.
    """
    target = make_url(url).set(drivername="postgresql")
    try:
        with psycopg.connect(target.render_as_string(hide_password=False), connect_timeout=5) as connection:
            version = connection.info.server_version
            if version < _OLDEST * 10_000:
                raise StepError(f"the server is PostgreSQL {version // 10_000}: {_OLDEST} or later is needed")
    except psycopg.OperationalError as error:
        if f'database "{name}" does not exist' not in str(error):
            raise
        maintenance = target.set(database="postgres").render_as_string(hide_password=False)
        try:
            with psycopg.connect(maintenance, connect_timeout=5, autocommit=True) as connection:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        except psycopg.Error as refused:
            raise StepError(
                f"there is no database {name} on the server, and it can't be made ({str(refused).strip()}): "
                f"create it, owned by {target.username}, or name others with --database-url and --hub-database-url"
            ) from refused
