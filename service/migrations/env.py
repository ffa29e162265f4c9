"""Run the migrations on the connection that `service.db.migrate` opened."""

from alembic import context

from service.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
context.run_migrations()
