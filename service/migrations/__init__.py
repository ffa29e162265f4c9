"""The history of the tables in `service.db`; `service.db.migrate` runs it."""
