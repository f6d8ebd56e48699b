"""How Alembic runs our migrations: on the connection that it is given, within that connection's transaction."""

from alembic import context

from vlib_images.library.database import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    render_as_batch=True,  # SQLite's ALTER TABLE does little
)
context.run_migrations()
