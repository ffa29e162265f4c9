"""Keep the system of record: what each table holds.

The identified side is `instances`, `result_objects` and `quarantine`. A `jobs` row, which is all that an inference worker
reads, holds no identifier: the name of the de-identified copy, sex, age in days, a pseudonym of the patient and the Reading.
"""

import datetime as dt
from enum import IntEnum, StrEnum
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


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


class Priority(IntEnum):
    """Who is served first; a smaller number before a larger one."""

    STAT = 1
    ROUTINE = 5
    BACKFILL = 9


class QueueMode(StrEnum):
    """Whether the work of one queue goes on."""

    RUNNING = "running"
    PAUSED = "paused"  # no step of this queue begins; what has begun is finished
    DRAINING = "draining"  # nothing new comes into this queue; what waits in it is finished


class BreakerState(StrEnum):
    """Whether a destination is sent to."""

    CLOSED = "closed"  # as usual
    OPEN = "open"  # it failed too often; it is left alone until the probe
    HALF_OPEN = "half-open"  # one C-ECHO is on its way to find out


class ResultState(StrEnum):
    """How far one result object has come at one destination."""

    BUILT = "built"
    ACCEPTED = "accepted"  # a C-STORE response said so
    CONFIRMED = "confirmed"  # a commitment report or a C-FIND proved it
    MISSING = "missing"  # accepted, then not kept: to be sent again
    REFUSED = "refused"


class CommitmentState(StrEnum):
    """How far a storage commitment request has come."""

    ASKED = "asked"
    REPORTED = "reported"
    REFUSED = "refused"  # the request was not taken, or its report could not be delivered


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


# The audit trail names rows by their numbers for good and follows them by these: SQLite would give the highest again once it is free.
NUMBERED_ONCE: Final = {"sqlite_autoincrement": True}


def _part(name: str, *columns: str, where: str, sqlite: str | None = None) -> Index:
    """Return an index of the rows that meet a condition.

    SQLite uses it only for a question that holds the condition in the same words: a boolean is compared with a number there.
    """
    return Index(name, *columns, sqlite_where=text(sqlite or where), postgresql_where=text(where))


class Instance(Table):
    """One received and acknowledged SOP instance (identified side)."""

    __tablename__ = "instances"
    __table_args__ = NUMBERED_ONCE

    id: Mapped[int] = mapped_column(primary_key=True)
    SOPInstanceUID: Mapped[str] = mapped_column("sop_instance_uid", unique=True)
    SOPClassUID: Mapped[str] = mapped_column("sop_class_uid")
    TransferSyntaxUID: Mapped[str] = mapped_column("transfer_syntax_uid")
    StudyInstanceUID: Mapped[str] = mapped_column("study_instance_uid", index=True)
    SeriesInstanceUID: Mapped[str] = mapped_column("series_instance_uid")
    calling_ae_title: Mapped[str]
    called_ae_title: Mapped[str]
    address: Mapped[str]
    digest: Mapped[str]  # of the encoded data set as received, without file meta information; see `receiving.digests`
    byte_count: Mapped[int]
    name: Mapped[str] = mapped_column(unique=True)  # in the identified store
    received_at: Mapped[dt.datetime]
    accession_number: Mapped[str | None] = mapped_column(
        index=True
    )  # an identifier: for the administrator's search alone


class Job(Table):
    """One film to be read; every step claims the row before it works."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("instance_id", "revision"),
        # Each question that is asked while work goes on reads one short stretch of one of these, however long the table is.
        Index("ix_jobs_claim", "state", "parked", "priority", "turn", "id"),
        Index("ix_jobs_unpublished", "state", "parked", "published_at"),
        Index("ix_jobs_listed", "state", "id"),
        Index("ix_jobs_age", "state", "state_since"),
        Index("ix_jobs_turn", "priority", "turn"),
        Index("ix_jobs_turn_of_peer", "peer", "priority", "turn"),
        _part("ix_jobs_parked", "not_before", where="parked", sqlite="parked = 1"),
        _part("ix_jobs_leased", "lease_expires_at", where="lease_token IS NOT NULL"),
        _part(
            "ix_jobs_deadline",
            "deadline",
            where="deadline IS NOT NULL AND NOT overdue",
            sqlite="deadline IS NOT NULL AND overdue = 0",
        ),
        _part("ix_jobs_overdue", "state_since", where="overdue", sqlite="overdue = 1"),
        _part("ix_jobs_subject", "subject", "id", where="subject IS NOT NULL"),
        _part("ix_jobs_cause", "state", "cause_code", "state_since", where="cause_code IS NOT NULL"),
        Index("ix_jobs_unconfirmed", "state", "confirmed_at"),
        NUMBERED_ONCE,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"))
    revision: Mapped[int] = mapped_column(default=1)  # a second reading of the same film, only when asked for
    priority: Mapped[int] = mapped_column(default=Priority.ROUTINE)
    peer: Mapped[str] = mapped_column(default="", server_default="")  # AE title that sent the film
    turn: Mapped[int] = mapped_column(
        BigInteger, default=0, server_default="0"
    )  # within a priority: see `service.queue.turns`
    subject: Mapped[str | None]  # pseudonym of the patient: results of one patient leave in order
    state: Mapped[str]
    resume_state: Mapped[str | None]  # the state a retry goes back to
    outcome: Mapped[str | None]  # reading | rejection
    side_marker: Mapped[str | None]  # L or R: what a marker beside the hand says
    attempts: Mapped[int] = mapped_column(default=0)  # of the present step
    losses: Mapped[int] = mapped_column(default=0)  # workers that died during the present step
    lease_token: Mapped[str | None]
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[dt.datetime | None]
    not_before: Mapped[dt.datetime]
    parked: Mapped[bool] = mapped_column(default=False, server_default=false())  # waits for `not_before`
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
    traceparent: Mapped[str | None]  # of the film's trace (W3C Trace Context); none: it is not traced
    created_at: Mapped[dt.datetime]
    updated_at: Mapped[dt.datetime]
    state_since: Mapped[dt.datetime]
    first_failed_at: Mapped[dt.datetime | None]  # of the present step
    # When every destination had proved that it keeps every object; also of a rejection, which keeps its state.
    confirmed_at: Mapped[dt.datetime | None]


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

    @property
    def shown_observer(self) -> str:
        """The name as people write it: given name before family name, for a name in components; else as it stands."""
        family, *rest = self.observer.split("=")[0].split("^")
        return " ".join(part for part in ((rest[0] if rest else ""), family) if part)


class JobEvent(Table):
    """One line of a job's timeline."""

    __tablename__ = "job_events"
    __table_args__ = NUMBERED_ONCE

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
    __table_args__ = (
        UniqueConstraint("job_id", "destination", "kind"),
        Index("ix_result_objects_unproved", "destination", "state", "confirm_after"),
        NUMBERED_ONCE,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    destination: Mapped[str]
    kind: Mapped[str]  # SR, SEG, GSPS, SC, PDF, KOS
    SOPClassUID: Mapped[str] = mapped_column("sop_class_uid")
    SOPInstanceUID: Mapped[str] = mapped_column("sop_instance_uid", index=True)
    SeriesInstanceUID: Mapped[str] = mapped_column("series_instance_uid")
    name: Mapped[str]  # in the store of results
    sha256: Mapped[str]
    state: Mapped[str]
    status_code: Mapped[int | None]  # of the C-STORE response
    updated_at: Mapped[dt.datetime]
    confirm_after: Mapped[dt.datetime | None]  # when proof is asked for next; none: now
    confirmed_at: Mapped[dt.datetime | None]
    confirmed_by: Mapped[str | None]  # commitment | query
    transaction_uid: Mapped[str | None] = mapped_column(index=True)  # of the last commitment request
    failure_reason: Mapped[int | None]  # of the last commitment report (PS3.3 C.14.1.1)
    checks: Mapped[int] = mapped_column(default=0)  # looked for in vain since it was last sent
    resends: Mapped[int] = mapped_column(default=0)  # sent again because it was not kept


class Commitment(Table):
    """One storage commitment request: ours to a destination, or a peer's to us."""

    __tablename__ = "commitments"
    __table_args__ = (
        UniqueConstraint("transaction_uid", "peer"),
        Index("ix_commitments_due", "role", "state", "due_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str]
    role: Mapped[str]  # requestor: we asked; provider: we were asked
    peer: Mapped[str]  # name of our destination, or AE title of who asked us
    address: Mapped[str | None]  # of who asked us
    state: Mapped[str]
    objects: Mapped[int]  # how many the request names
    asked_for: Mapped[list[dict[str, Any]] | None]  # what we were asked: [{"class", "instance"}]
    attempts: Mapped[int] = mapped_column(default=0)  # to deliver our report
    detail: Mapped[str | None]  # how it ended
    created_at: Mapped[dt.datetime]
    due_at: Mapped[dt.datetime]  # by when the report should have come, or when ours is sent next
    settled_at: Mapped[dt.datetime | None]


class Quarantined(Table):
    """A received file that cannot be used, kept with its cause (identified side)."""

    __tablename__ = "quarantine"
    __table_args__ = (UniqueConstraint("cause_code", "sha256"), NUMBERED_ONCE)

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


class QueueControl(Table):
    """What a person asked of one queue; a queue without a row runs."""

    __tablename__ = "queue_controls"

    queue: Mapped[str] = mapped_column(primary_key=True)  # intake, inference, delivery
    mode: Mapped[str]
    since: Mapped[dt.datetime]
    changed_by: Mapped[str]
    reason: Mapped[str]


class Breaker(Table):
    """Whether one destination is sent to, and if not, why; a destination without a row is."""

    __tablename__ = "breakers"

    destination: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    failures: Mapped[int] = mapped_column(default=0)  # transient ones in a row
    probes: Mapped[int] = mapped_column(default=0)  # failed ones since it opened
    opened_at: Mapped[dt.datetime | None]
    probe_at: Mapped[dt.datetime | None]  # when the next C-ECHO is due
    cause_code: Mapped[str | None]
    cause_text: Mapped[str | None]
    next_action: Mapped[str | None]
    updated_at: Mapped[dt.datetime]


class Refusal(Table):
    """How often instances were refused for now (0xA700) for one cause."""

    __tablename__ = "refusals"

    code: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
    next_action: Mapped[str]
    count: Mapped[int] = mapped_column(default=0)
    first_at: Mapped[dt.datetime]
    last_at: Mapped[dt.datetime]


class Tally(Table):
    """What a counter of the metrics had counted of rows that retention removed since: a counter never falls."""

    __tablename__ = "tallies"

    counter: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)  # empty: the counter has none
    value: Mapped[float] = mapped_column(default=0)


class AuditRecord(Table):
    """One record of the audit trail; patients stand in it by their pseudonym."""

    __tablename__ = "audit_records"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # numbered without gaps by the chain
    at: Mapped[dt.datetime]
    event: Mapped[str]
    outcome: Mapped[str]
    actor: Mapped[str] = mapped_column(index=True)
    study: Mapped[str | None]
    subject: Mapped[str | None] = mapped_column(index=True)
    message: Mapped[str]  # the XML of PS3.15 A.5
    previous: Mapped[str]  # the hash of the record before
    hash: Mapped[str]


class AuditSeal(Table):
    """Proof, under a key that is not in the database, that the chain had this end."""

    __tablename__ = "audit_seals"

    record_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[str]
    mac: Mapped[str]
    at: Mapped[dt.datetime]


class AuditCursor(Table):
    """How far the audit trail has followed another table, or the repository the trail."""

    __tablename__ = "audit_cursors"

    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]


class LegalHold(Table):
    """What may not be removed, and why."""

    __tablename__ = "legal_holds"

    id: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str]  # patient (by pseudonym) or study (by UID)
    value: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str]
    placed_by: Mapped[str]
    placed_at: Mapped[dt.datetime]
    released_by: Mapped[str | None]
    released_at: Mapped[dt.datetime | None]


class InstallationRecord(Table):
    """What this installation is known by for life; one row."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    device_uid: Mapped[str]


class ProfileChoice(Table):
    """The result profile a person gave a destination while the service runs; it stands before the configured one."""

    __tablename__ = "profile_choices"

    destination: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    profile: Mapped[dict[str, Any]]
    chosen_at: Mapped[dt.datetime]
    chosen_by: Mapped[str]


class Negotiated(Table):
    """The SOP classes a destination accepted when it was last asked."""

    __tablename__ = "negotiated"

    destination: Mapped[str] = mapped_column(primary_key=True)
    address: Mapped[str]  # who was asked, by whom: an answer counts for this pair alone
    sop_classes: Mapped[str]  # separated by blanks
    asked_at: Mapped[dt.datetime]


class Account(Table):
    """Somebody who may use the pages, or a service with a token."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]  # viewer, radiologist, administrator, service
    observer_name: Mapped[str] = mapped_column(default="")
    password_hash: Mapped[str | None]  # argon2; None for a service and for who logs in elsewhere
    token_sha256: Mapped[str | None] = mapped_column(unique=True)
    source: Mapped[str] = mapped_column(default="local")  # or the issuer of an identity provider
    subject: Mapped[str | None] = mapped_column(unique=True)  # issuer#sub
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[dt.datetime]
    changed_at: Mapped[dt.datetime]


class LoginFailure(Table):
    """One wrong password, under the keyed hash of an address or a name."""

    __tablename__ = "login_failures"
    __table_args__ = (Index("ix_login_failures_key_at", "key", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    at: Mapped[dt.datetime]


class JobPriors(Table):
    """The earlier bone ages one destination knew when a job's results were built for it (identified side)."""

    __tablename__ = "job_priors"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    destination: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime]
    priors: Mapped[list[dict[str, Any]]]
