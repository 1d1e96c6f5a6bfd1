"""Bringing a database to this version's schema, and refusing one that is newer."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

_LOCK = 7_301_001  # one migration at a time, whoever starts first


class NewerSchemaError(RuntimeError):
    """The database was written by a newer version of the platform."""


def config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def check_schema(engine: Engine) -> None:
    """Raise NewerSchemaError if the database holds a revision that this version does not know."""
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in ScriptDirectory.from_config(config()).walk_revisions()}
    if current is not None and current not in known:
        raise NewerSchemaError(
            f"the database's schema is at revision {current}, which this version does not know: "
            "start the version that wrote it, or restore a backup made by this one"
        )


def migrate(engine: Engine) -> None:
    """Apply what is missing, in one transaction."""
    check_schema(engine)
    alembic = config()
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, "head")
