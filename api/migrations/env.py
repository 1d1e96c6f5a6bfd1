"""Alembic environment: the connection is handed in by `api.migrations.migrate`."""

from alembic import context

from api.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, compare_server_default=False
)
with context.begin_transaction():
    context.run_migrations()
