"""Keep the system of record: its tables, the engine that reaches them and the migration that makes them.

SQLite (write-ahead log, every commit synced) is the embedded default; PostgreSQL is the same tables by URL. The identified
side is `instances`, `result_objects` and `quarantine`. A `jobs` row, which is all that an inference worker reads, holds no
identifier: the name of the de-identified copy, sex, age in days and the Reading.
"""

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from service.errors import InvalidConfiguration, Retryable

BUSY_TIMEOUT_MS: Final = 15_000  # how long a writer of SQLite waits for another
MIGRATION_LOCK: Final = 0x436172707573  # "Carpus": one process migrates PostgreSQL at a time


class State(StrEnum):
    """The last finished step of a job, or the side exit it took."""

    RECEIVED = "RECEIVED"  # the instance is on disk and in the database; it has been acknowledged
    PREPARED = "PREPARED"  # routed to be read, the de-identified copy is written
    INFERRED = "INFERRED"  # the Reading, or the reason for a rejection, is stored
    DELIVERED = "DELIVERED"  # every destination accepted every object
    CONFIRMED = "CONFIRMED"  # every destination has proved that it keeps them
    FILTERED = "FILTERED"  # not meant to be read (an overlay, a report, a second copy); nothing is sent
    REJECTED = "REJECTED"  # cannot be read; the reason has been sent as a report
    FAILED = "FAILED"  # dead letter: cause, next action, retry
    CANCELLED = "CANCELLED"  # by a person


class ResultState(StrEnum):
    """How far one result object has come at one destination."""

    BUILT = "built"
    ACCEPTED = "accepted"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An aware time in UTC; SQLite, which has no time zones, keeps it naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Refuse a naive time: it would be read in another zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} is a naive time; an aware one is needed")
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Return an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class Table(DeclarativeBase):
    """Every table; the naming convention lets a migration name what it changes."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own hook
        dt.datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[dict[str, Any]]: JSON,
        list[str]: JSON,
        str: Text,
    }


class Instance(Table):
    """One received and acknowledged SOP instance (identified side)."""

    __tablename__ = "instances"

    id: Mapped[int] = mapped_column(primary_key=True)
    SOPInstanceUID: Mapped[str] = mapped_column("sop_instance_uid", unique=True)
    SOPClassUID: Mapped[str] = mapped_column("sop_class_uid")
    TransferSyntaxUID: Mapped[str] = mapped_column("transfer_syntax_uid")
    StudyInstanceUID: Mapped[str] = mapped_column("study_instance_uid", index=True)
    SeriesInstanceUID: Mapped[str] = mapped_column("series_instance_uid")
    calling_ae_title: Mapped[str]
    called_ae_title: Mapped[str]
    address: Mapped[str]
    sha256: Mapped[str]  # of the encoded data set as received, without file meta information
    byte_count: Mapped[int]
    name: Mapped[str] = mapped_column(unique=True)  # in the identified store
    received_at: Mapped[dt.datetime]


class Job(Table):
    """One film to be read; every step claims the row before it works."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("instance_id", "revision"),
        Index("ix_jobs_due", "state", "not_before"),
        Index("ix_jobs_unpublished", "published_at", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"))
    revision: Mapped[int] = mapped_column(default=1)  # a second reading of the same film, only when asked for
    priority: Mapped[int] = mapped_column(default=5)  # 1 first
    state: Mapped[str]
    resume_state: Mapped[str | None]  # the state a retry goes back to
    outcome: Mapped[str | None]  # reading | rejection
    attempts: Mapped[int] = mapped_column(default=0)  # of the present step
    losses: Mapped[int] = mapped_column(default=0)  # workers that died during the present step
    lease_token: Mapped[str | None]
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[dt.datetime | None]
    not_before: Mapped[dt.datetime]
    published_at: Mapped[dt.datetime | None]  # outbox: when the present step's message was handed to the broker
    deadline: Mapped[dt.datetime | None]  # by when the present state should have been left
    overdue: Mapped[bool] = mapped_column(default=False)
    cause_code: Mapped[str | None]
    cause_text: Mapped[str | None]
    next_action: Mapped[str | None]
    reasons: Mapped[list[dict[str, Any]] | None]  # of a rejection: [{"code", "text"}]
    deidentified_name: Mapped[str | None]  # in the de-identified store
    sex: Mapped[str | None]  # F, M or unknown
    age_days: Mapped[int | None]
    reading: Mapped[str | None]  # Reading.to_json()
    bundle_sha256: Mapped[str | None]
    read_at: Mapped[dt.datetime | None]  # when the Reading was made: the content date of every result
    created_at: Mapped[dt.datetime]
    updated_at: Mapped[dt.datetime]
    state_since: Mapped[dt.datetime]
    first_failed_at: Mapped[dt.datetime | None]  # of the present step


class AmendedJob(Table):
    """A person's correction of one job's reading; the corrected reading stands with the job it made (identified side)."""

    __tablename__ = "amendments"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    amended_job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    observer: Mapped[str]  # person name
    organisation: Mapped[str]
    verified: Mapped[bool]
    at: Mapped[dt.datetime]
    stages: Mapped[dict[str, Any]]  # region -> RUS-CHN label, all since the algorithm's own reading
    rejected: Mapped[list[str]]  # regions, all since the algorithm's own reading
    original: Mapped[str]  # Reading.to_json() of the algorithm's own reading


class JobEvent(Table):
    """One line of a job's timeline."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    at: Mapped[dt.datetime]
    code: Mapped[str]
    text: Mapped[str]
    milliseconds: Mapped[float | None]  # of the step that ended here
    process: Mapped[str | None]


class ResultObject(Table):
    """One object made for one destination (identified side)."""

    __tablename__ = "result_objects"
    __table_args__ = (UniqueConstraint("job_id", "destination", "kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    destination: Mapped[str]
    kind: Mapped[str]  # SR, SEG, GSPS, SC
    SOPClassUID: Mapped[str] = mapped_column("sop_class_uid")
    SOPInstanceUID: Mapped[str] = mapped_column("sop_instance_uid", index=True)
    SeriesInstanceUID: Mapped[str] = mapped_column("series_instance_uid")
    name: Mapped[str]  # in the store of results
    sha256: Mapped[str]
    state: Mapped[str]
    status_code: Mapped[int | None]  # of the C-STORE response
    updated_at: Mapped[dt.datetime]


class Quarantined(Table):
    """A received file that cannot be used, kept with its cause (identified side)."""

    __tablename__ = "quarantine"

    __table_args__ = (UniqueConstraint("cause_code", "sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    first_at: Mapped[dt.datetime]
    last_at: Mapped[dt.datetime]
    count: Mapped[int] = mapped_column(default=1)  # the same bytes came again for the same cause
    name: Mapped[str]  # in the quarantine store
    cause_code: Mapped[str]
    cause_text: Mapped[str]
    SOPInstanceUID: Mapped[str | None] = mapped_column("sop_instance_uid")
    sha256: Mapped[str]
    instance_id: Mapped[int | None] = mapped_column(ForeignKey("instances.id"))  # what we keep under the same UID
    calling_ae_title: Mapped[str]
    address: Mapped[str]


class Heartbeat(Table):
    """The last sign of life of one process."""

    __tablename__ = "heartbeats"

    process: Mapped[str] = mapped_column(primary_key=True)
    pid: Mapped[int]
    at: Mapped[dt.datetime]
    detail: Mapped[dict[str, Any] | None]


def connect(url: str) -> Engine:
    """Return an engine for the database; no connection is opened yet.

    Raises
    ------
    InvalidConfiguration
        When the URL is neither of SQLite nor of PostgreSQL, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidConfiguration("database_url is not a database URL, e.g. postgresql://host/carpus") from error
    if parsed.get_backend_name() == "postgresql":
        try:
            return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=5)
        except ModuleNotFoundError as error:
            raise InvalidConfiguration(
                "database_url names PostgreSQL, whose driver is not installed",
                next_action="pip install 'carpus[postgresql]'",
            ) from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise InvalidConfiguration(
            f"database_url is of {parsed.get_backend_name()!r}; a file of SQLite or a PostgreSQL database is needed"
        )
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Any) -> None:
    # A transaction that reads first and writes later cannot wait for another writer (SQLITE_BUSY at once), so writers say so.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def migrate(engine: Engine) -> None:
    """Bring the tables to the present version; safe when several processes start at once.

    Raises
    ------
    Retryable
        When the database cannot be reached.
    """
    with as_file(files("service") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        try:
            with engine.execution_options(write=True).begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except DBAPIError as error:
            raise Retryable(
                f"the database {engine.url.render_as_string(hide_password=True)} cannot be used: {error.orig}",
                code="database-unavailable",
                next_action="start the database, or correct database_url",
            ) from error


def version(engine: Engine) -> str | None:
    """Return the migration the tables stand at, or None for an empty database."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def tables() -> Sequence[str]:
    """Return the names of all tables, in the order of their foreign keys."""
    return [table.name for table in Table.metadata.sorted_tables]
