"""Give no number twice on SQLite: the trail names films, jobs and quarantined files by theirs, and follows films and events by them.

SQLite gave the highest number again once its row was removed. AUTOINCREMENT belongs to a table's definition, so the tables are made
anew, in the steps of https://www.sqlite.org/lang_altertable.html#otheralter. PostgreSQL's sequences give no number twice.
"""

import re

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TABLES = ("instances", "jobs", "job_events", "result_objects", "quarantine")
NAMED = re.compile(r"\b(film|job|quarantined file) (\d+)")  # in the words of the audit trail
OF_WORD = {"film": "instances", "job": "jobs", "quarantined file": "quarantine"}


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    highest = _told(connection)
    for table in TABLES:
        _number_once(connection, table)
        _never_below(connection, table, highest.get(table, 0))


def downgrade() -> None:
    pass  # an earlier version works with these tables as they are


def _number_once(connection: sa.Connection, table: str) -> None:
    question = sa.text("SELECT sql FROM sqlite_master WHERE tbl_name = :table AND type = :kind AND sql IS NOT NULL")
    made = str(connection.scalar(question, {"table": table, "kind": "table"}))
    if "AUTOINCREMENT" in made:
        return  # a database that was taken back to an earlier version and comes again
    if connection.scalar(sa.text("PRAGMA foreign_keys")):
        raise RuntimeError(f"dropping {table} would remove the rows that refer to it")
    indexes = [str(sql) for sql in connection.scalars(question, {"table": table, "kind": "index"})]
    changes = (
        (rf'^CREATE TABLE "?{table}"? \(', f"CREATE TABLE {table}_numbered ("),
        (r"\bid INTEGER NOT NULL,", "id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,"),
        (rf",\s*CONSTRAINT pk_{table} PRIMARY KEY \(id\)", ""),
    )
    for pattern, words in changes:
        made, count = re.subn(pattern, words, made)
        if count != 1:
            raise RuntimeError(f"the table {table} was not made by Carpus: {pattern} is not in its definition")
    connection.exec_driver_sql(made)
    connection.exec_driver_sql(f"INSERT INTO {table}_numbered SELECT * FROM {table}")  # noqa: S608 - our own names
    connection.exec_driver_sql(f"DROP TABLE {table}")
    connection.exec_driver_sql(f"ALTER TABLE {table}_numbered RENAME TO {table}")
    for sql in indexes:
        connection.exec_driver_sql(sql)


def _told(connection: sa.Connection) -> dict[str, int]:
    """Return the highest number of each table that the audit trail knows, of rows that may have been removed since."""
    highest = {
        str(name): int(at) for name, at in connection.execute(sa.text("SELECT name, position FROM audit_cursors"))
    }
    for message in connection.scalars(sa.text("SELECT message FROM audit_records")):
        said = re.search("<EventOutcomeDescription>([^<]*)<", message)
        for word, number in NAMED.findall(said[1]) if said else ():
            highest[OF_WORD[word]] = max(highest.get(OF_WORD[word], 0), int(number))
    # Every film came with a job of its own.
    return highest | {"jobs": max(highest.get("jobs", 0), highest.get("instances", 0))}


def _never_below(connection: sa.Connection, table: str, number: int) -> None:
    values = {"table": table, "number": number}
    known = sa.text("UPDATE sqlite_sequence SET seq = max(seq, :number) WHERE name = :table")
    if number and not connection.execute(known, values).rowcount:
        connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :number)"), values)
