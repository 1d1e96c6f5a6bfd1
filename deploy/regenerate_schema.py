"""Write the first migration again from the tables: `python -m deploy.regenerate_schema`.

For the time before the first release only, when there is no database to keep.
"""

import fcntl
import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from api.migrations.migrate import config
from deploy.postgres import EmbeddedPostgres

VERSIONS = Path(__file__).parent.parent / "api" / "migrations" / "versions"


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="rg-schema-", dir="/var/tmp") as directory,
        (VERSIONS.parent / "env.py").open() as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(directory).chmod(0o711)
        server = EmbeddedPostgres(Path(directory) / "pg")
        server.start()
        try:
            server.ensure_database("schema")
            engine = create_engine(server.url("schema"))
            later = [path for path in VERSIONS.glob("*.py") if not path.name.startswith("0001_")]
            hidden = [path.rename(path.with_suffix(".hidden")) for path in later]
            try:
                (VERSIONS / "0001_initial_schema.py").unlink(missing_ok=True)
                alembic = config()
                with engine.begin() as connection:
                    alembic.attributes["connection"] = connection
                    command.revision(alembic, "initial schema", autogenerate=True, rev_id="0001")
            finally:
                for path in hidden:
                    path.rename(path.with_suffix(".py"))
            engine.dispose()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
