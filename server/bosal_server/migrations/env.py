"""Runs migrations on the connection that `bosal_server.database` hands over."""

from alembic import context

from bosal_server.database import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite changes a table by copying it.
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
