"""Reach the database: the engine, and the migration that makes its tables.

SQLite (write-ahead log, every commit synced) is the embedded default; PostgreSQL is the same tables by URL. The tables
themselves are in `service.tables`.
"""

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from service.errors import InvalidConfiguration, Permanent, Retryable, installing
from service.tables import Table

BUSY_TIMEOUT_MS: Final = 15_000  # how long a writer of SQLite waits for another
TRY_AGAIN_SECONDS: Final = (
    0.0005,
    0.003,
)  # until its next try; SQLite by itself would sleep up to 0.1 s beside a free lock
MIGRATION_LOCK: Final = 0x436172707573  # "Carpus": one process migrates PostgreSQL at a time


def connect(url: str) -> Engine:
    """Return an engine for the database; no connection is opened yet.

    Raises
    ------
    InvalidConfiguration
        When the URL is neither of SQLite nor of PostgreSQL, its driver is not installed, or its folder cannot be made.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidConfiguration("database_url is not a database URL, e.g. postgresql://host/carpus") from error
    if parsed.get_backend_name() == "postgresql":
        try:
            engine = create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=5)
        except ModuleNotFoundError as error:
            raise InvalidConfiguration(
                "database_url names PostgreSQL, whose driver is not installed",
                next_action=installing("postgresql"),
            ) from error
        # Before SQLAlchemy's own look at a new connection, which takes its texts for str; of SQL_ASCII they come as bytes.
        event.listen(engine, "connect", _require_utf8, insert=True)
        return engine
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise InvalidConfiguration(
            f"database_url is of {parsed.get_backend_name()!r}; a file of SQLite or a PostgreSQL database is needed"
        )
    folder = Path(parsed.database).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names studies
    except OSError as error:
        raise InvalidConfiguration(
            f"the folder {folder} cannot be made: {error.strerror}",
            next_action="let this user write there, or correct data_directory (or database_url, where it is set)",
        ) from error
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _require_utf8(connection: Any, _record: Any) -> None:
    """Refuse a database of PostgreSQL that cannot hold every text; the server names its encoding with each connection."""
    found = connection.info.parameter_status("server_encoding")
    if found != "UTF8":
        name = connection.info.dbname
        connection.close()
        raise InvalidConfiguration(
            f"the encoding of the PostgreSQL database {name!r} is {found}; UTF8 is needed",
            code="database-encoding",
            next_action="make one by CREATE DATABASE carpus ENCODING 'UTF8' TEMPLATE template0 and name it in database_url; "
            "what the old one holds goes along by pg_dump and psql",
        )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Any) -> None:
    # A transaction that reads first and writes later cannot wait for another writer (SQLITE_BUSY at once), so writers say so.
    if not connection.get_execution_options().get("write", False):
        connection.exec_driver_sql("BEGIN")
        return
    raw: sqlite3.Connection = connection.connection.driver_connection
    end = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    raw.execute("PRAGMA busy_timeout=0").close()
    try:
        while not _begun(raw) and time.monotonic() < end:
            time.sleep(random.uniform(*TRY_AGAIN_SECONDS))  # noqa: S311 - no secret
        if not raw.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # once more, for the error
    finally:
        raw.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}").close()


def _begun(connection: sqlite3.Connection) -> bool:
    """Begin to write, unless another writer does."""
    try:
        connection.execute("BEGIN IMMEDIATE").close()
    except sqlite3.OperationalError:
        return False
    return True


def migrate(engine: Engine) -> None:
    """Bring the tables to the present version; safe when several processes start at once.

    Raises
    ------
    Retryable
        When the database cannot be reached.
    Permanent
        When its tables were made by a version later than this one.
    """
    with as_file(files("service") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        try:
            with engine.execution_options(write=True).connect() as connection, _free_to_rebuild(connection):
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                _refuse_later(MigrationContext.configure(connection).get_current_revision(), config)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except DBAPIError as error:
            raise Retryable(
                f"the database {engine.url.render_as_string(hide_password=True)} cannot be used: {error.orig}",
                code="database-unavailable",
                next_action="start the database, or correct database_url",
            ) from error


@contextmanager
def _free_to_rebuild(connection: Connection) -> Iterator[None]:
    """Hold a transaction in which SQLite lets a table be made anew: else DROP TABLE takes along the rows that refer to it.

    The pragma does nothing within a transaction, so it comes before and is taken back after.
    """
    raw: Any = connection.connection.driver_connection
    if connection.dialect.name != "sqlite":
        with connection.begin():
            yield
        return
    raw.execute("PRAGMA foreign_keys=OFF").close()
    try:
        with connection.begin():
            yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON").close()


def _refuse_later(found: str | None, config: Config) -> None:
    scripts = ScriptDirectory.from_config(config)
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise Permanent(
            f"the tables of the database stand at {found}; this version of Carpus knows them up to {scripts.get_current_head()}",
            code="database-later",
            next_action="start the version that made them, or one after it; to go back, restore the backup of before its first start",
        )


def require_present(engine: Engine) -> None:
    """Make the tables of an empty database; leave those of another version as they are: a look must not change a running service.

    Raises
    ------
    Retryable
        When the database cannot be reached.
    Permanent
        When its tables are of an earlier or a later version.
    """
    try:
        found = version(engine)
    except DBAPIError:
        found = None  # `migrate` says why
    with as_file(files("service") / "migrations") as folder:
        scripts = ScriptDirectory(str(folder))
    if found is None or found not in {script.revision for script in scripts.walk_revisions()}:
        return migrate(engine)
    if found != scripts.get_current_head():
        raise Permanent(
            f"the tables of the database stand at {found}; this version of Carpus needs them at {scripts.get_current_head()}",
            code="database-behind",
            next_action="make a backup of the database, then start `carpus serve` of this version: it brings the tables up to date",
        )
    return None


def version(engine: Engine) -> str | None:
    """Return the migration the tables stand at, or None for an empty database."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def tables() -> Sequence[str]:
    """Return the names of all tables, in the order of their foreign keys."""
    return [table.name for table in Table.metadata.sorted_tables]
