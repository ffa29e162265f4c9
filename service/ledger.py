"""Read the record of jobs: what waits, what happened to one job, who is alive.

The base of the repository `service.queue.jobs.Jobs`: it holds the engine and the clock, and asks without changing a job.
"""

import datetime as dt
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, and_, bindparam, delete, exists, func, not_, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, aliased

from service.errors import Permanent
from service.prepared import Prepared
from service.rows import appended
from service.tables import (
    AmendedJob,
    Heartbeat,
    Instance,
    Job,
    JobEvent,
    JobPriors,
    Quarantined,
    Refusal,
    ResultObject,
    ResultState,
    State,
)

# By when a state should have been left; an overdue job is shown with an alert, it is not abandoned (field lesson 8).
DEADLINES: Final[Mapping[State, dt.timedelta]] = {
    State.RECEIVED: dt.timedelta(minutes=5),
    State.PREPARED: dt.timedelta(minutes=15),
    State.INFERRED: dt.timedelta(minutes=15),
    State.DELIVERED: dt.timedelta(hours=24),
}
FINAL: Final = (State.CONFIRMED, State.FILTERED, State.REJECTED, State.FAILED, State.CANCELLED)
SILENT_AFTER: Final = dt.timedelta(seconds=60)  # without a heartbeat
FORGOTTEN_AFTER: Final = dt.timedelta(hours=1)
# Whose files and rows may go once nothing of them is unconfirmed; FAILED waits for a person.
REMOVABLE: Final = (State.CONFIRMED, State.FILTERED, State.REJECTED, State.CANCELLED)

# Asked several times for every film: put together once.
_AMENDED: Final = select(AmendedJob).where(AmendedJob.job_id == bindparam("job_id"))
JOB: Final = select(Job).where(Job.id == bindparam("id"))
_STATE: Final = Prepared(select(Job.state).where(Job.id == bindparam("id")))
_INSTANCE: Final = select(Instance).where(Instance.id == bindparam("id"))
_RESULTS: Final = select(ResultObject).where(ResultObject.job_id == bindparam("job_id")).order_by(ResultObject.id)
_UNPREPARED: Final = select(func.count(), func.min(Job.state_since)).where(Job.state == State.RECEIVED)
_CANCELLED: Final = exists().where(Job.instance_id == Instance.id, Job.state == State.CANCELLED)
_OWN: Final = aliased(Instance)
_STUDY: Final = select(_OWN.StudyInstanceUID).where(_OWN.id == bindparam("id")).scalar_subquery()
_SIBLINGS: Final = (
    select(Instance)
    .where(Instance.StudyInstanceUID == _STUDY, Instance.id != bindparam("id"), ~_CANCELLED)
    .order_by(Instance.id.desc())
    .limit(bindparam("limit"))
)


class UnknownJob(Permanent):
    """No job has this number, or it is not in a state that allows what was asked."""

    code = "unknown-job"


class Life(StrEnum):
    """What is known of a process by its last sign of life."""

    ALIVE = "alive"
    STOPPED = "stopped"  # it ended in order and said so
    SILENT = "silent"


def life_of(beat: Heartbeat, now: dt.datetime) -> Life:
    """Return what the last sign of life of a process says now; one that was killed passes for alive until it has been silent for long."""
    if (beat.detail or {}).get("stopped"):
        return Life.STOPPED
    return Life.ALIVE if now - beat.at <= SILENT_AFTER else Life.SILENT


def utc_now() -> dt.datetime:
    """Return the present time."""
    return dt.datetime.now(dt.UTC)


class Ledger:
    """What was recorded, as rows detached from the database.

    Parameters
    ----------
    engine
        From `service.db.connect`, migrated.
    process
        Name written into timelines and leases, e.g. "worker inference 4711".
    clock
        Source of aware UTC times.
    lease_seconds
        How long a claim holds without a heartbeat.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        process: str | None = None,
        clock: Callable[[], dt.datetime] = utc_now,
        lease_seconds: float = 60,
    ) -> None:
        """Keep the collaborators; no connection is opened yet."""
        self.engine = engine
        self.process = process or f"process {os.getpid()}"
        self.now = clock
        self.lease = dt.timedelta(seconds=lease_seconds)
        self._writer = engine.execution_options(write=True)

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def get(self, job_id: int) -> Job:
        """Return one job.

        Raises
        ------
        UnknownJob
            When there is none of this number.
        """
        with self._read() as session:
            return self._found(session.scalars(JOB, {"id": job_id}).one_or_none(), job_id)

    def state_of(self, job_id: int) -> State:
        """Return the state of one job, for less than the job itself costs.

        Raises
        ------
        UnknownJob
            When there is none of this number.
        """
        with self.engine.connect() as connection:
            rows = _STATE.run(connection, {"id": job_id})
        if not rows:
            raise UnknownJob(f"there is no job {job_id}")
        return State(rows[0][0])

    def instance(self, instance_id: int) -> Instance:
        """Return the instance a job belongs to (identified side)."""
        with self._read() as session:
            return session.scalars(_INSTANCE, {"id": instance_id}).one()

    def siblings(self, instance_id: int, limit: int = 20) -> Sequence[Instance]:
        """Return the newest other instances of the same study whose jobs a person has not cancelled (identified side)."""
        with self._read() as session:
            return tuple(session.scalars(_SIBLINGS, {"id": instance_id, "limit": limit}))

    def list(
        self,
        *,
        state: State | None = None,
        limit: int = 100,
        before_id: int | None = None,
        accession_number: str | None = None,
        since: dt.datetime | None = None,
        cause_code: str | None = None,
    ) -> list[Job]:
        """Return jobs, newest first; without a state everything that was meant to be read (no FILTERED).

        Parameters
        ----------
        accession_number
            Only the films of this order: an identifier, which is asked for and never shown.
        since
            Only jobs received at or after this time.
        """
        query = select(Job).where(Job.state == state if state else Job.state != State.FILTERED)
        if before_id is not None:
            query = query.where(Job.id < before_id)
        if accession_number is not None:
            ordered = select(Instance.id).where(Instance.accession_number == accession_number)
            query = query.where(Job.instance_id.in_(ordered))
        if since is not None:
            query = query.where(Job.created_at >= since)
        if cause_code is not None:
            query = query.where(Job.cause_code == cause_code)
        with self._read() as session:
            return [*session.scalars(query.order_by(Job.id.desc()).limit(limit))]

    def find(self, sop_instance_uid: str) -> Sequence[Job]:
        """Return the jobs of one film, newest revision first."""
        query = select(Job).join(Instance, Instance.id == Job.instance_id)
        with self._read() as session:
            found = session.scalars(
                query.where(Instance.SOPInstanceUID == sop_instance_uid).order_by(Job.revision.desc())
            )
            return tuple(found)

    def counts(self) -> dict[State, int]:
        """Count the jobs by state; every state appears."""
        with self._read() as session:
            rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
            return dict.fromkeys(State, 0) | {State(state): count for state, count in rows}

    def oldest(self) -> dict[State, dt.timedelta]:
        """Return for each unfinished state how long its oldest job has been in it."""
        now = self.now()
        with self._read() as session:
            first = {
                state: session.scalar(select(func.min(Job.state_since)).where(Job.state == state))
                for state in State
                if state not in FINAL
            }
        return {state: now - since for state, since in first.items() if since is not None}

    def overdue(self, limit: int = 100) -> Sequence[Job]:
        """Return unfinished jobs past the deadline of their state, oldest first."""
        with self._read() as session:
            query = select(Job).where(Job.overdue, Job.state.not_in(FINAL)).order_by(Job.state_since)
            return tuple(session.scalars(query.limit(limit)))

    def count_overdue(self) -> int:
        """Count the unfinished jobs past the deadline of their state."""
        with self._read() as session:
            query = select(func.count()).select_from(Job).where(Job.overdue, Job.state.not_in(FINAL))
            return session.scalar(query) or 0

    def timeline(self, job_id: int) -> Sequence[JobEvent]:
        """Return everything that happened to a job, in order."""
        with self._read() as session:
            return tuple(session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id)))

    def results(self, job_id: int) -> Sequence[ResultObject]:
        """Return the objects made for a job."""
        with self._read() as session:
            return tuple(session.scalars(_RESULTS, {"job_id": job_id}))

    def priors(self, job_id: int, destination: str) -> Sequence[dict[str, Any]] | None:
        """Return the earlier bone ages that went into a job's results for a destination, None before they were looked up."""
        with self._read() as session:
            row = session.get(JobPriors, (job_id, destination))
            return None if row is None else row.priors

    def amendment(self, job_id: int) -> AmendedJob | None:
        """Return the correction that made a job, None for the algorithm's own reading."""
        with self._read() as session:
            return session.scalars(_AMENDED, {"job_id": job_id}).one_or_none()

    def backlog(self) -> int:
        """Count the jobs received and not yet prepared."""
        return self.unprepared_since()[0]

    def unprepared_since(self) -> tuple[int, dt.timedelta]:
        """Count the jobs received and not yet prepared; return also how long the oldest of them has waited."""
        with self._read() as session:
            count, since = session.execute(_UNPREPARED).one()
        return count, self.now() - since if count else dt.timedelta(0)

    def may_be_removed(self, job_id: int, *, unasked: Collection[str] = ()) -> str | None:
        """Return why the files and rows of a job must stay, or None when nothing of it is unconfirmed.

        What a destination has not proved to keep is never removed, however old it is; nor is what waits for a person.
        Of a destination in `unasked`, which the site said to ask for no proof, its acceptance counts.
        """
        job = self.get(job_id)
        if job.state not in (*REMOVABLE, State.DELIVERED) or (job.state == State.DELIVERED and not unasked):
            return f"job {job_id} is {job.state}: it is not finished"
        unproved = [
            row
            for row in self.results(job_id)
            if row.state != ResultState.CONFIRMED
            and not (row.state == ResultState.ACCEPTED and row.destination in unasked)
        ]
        if unproved and job.state != State.CANCELLED:
            where = sorted({row.destination for row in unproved})
            return f"{len(unproved)} objects of job {job_id} are not confirmed by {', '.join(where)}"
        return None

    def removable(
        self, finished_before: dt.datetime, limit: int = 500, *, unasked: Collection[str] = ()
    ) -> Sequence[int]:
        """Return ids of jobs of which nothing is unconfirmed, finished before this time, oldest first."""
        enough = and_(ResultObject.state == ResultState.ACCEPTED, ResultObject.destination.in_(unasked))
        unproved = exists().where(
            ResultObject.job_id == Job.id, ResultObject.state != ResultState.CONFIRMED, not_(enough)
        )
        states = (*REMOVABLE, State.DELIVERED) if unasked else REMOVABLE
        finished = Job.state.in_(states), Job.state_since < finished_before
        query = select(Job.id).where(*finished, (Job.state == State.CANCELLED) | ~unproved)
        with self._read() as session:
            return tuple(session.scalars(query.order_by(Job.id).limit(limit)))

    def refusals(self) -> Sequence[Refusal]:
        """Return how often instances were refused for now, by cause."""
        with self._read() as session:
            return tuple(session.scalars(select(Refusal).order_by(Refusal.code)))

    def quarantined(self, limit: int = 100) -> Sequence[Quarantined]:
        """Return what is in quarantine, newest first."""
        with self._read() as session:
            return list(session.scalars(select(Quarantined).order_by(Quarantined.last_at.desc()).limit(limit)))

    def beat(self, process: str, detail: dict[str, Any] | None = None) -> None:
        """Record that a process is alive."""
        with self._write() as session:
            session.merge(Heartbeat(process=process, pid=os.getpid(), at=self.now(), detail=detail))

    def sign_off(self, process: str) -> None:
        """Record that a process ends in order, so that nobody has to wait until it has been silent for long enough.

        Another one may have taken over its name; a database that is away is no error, its silence will tell.
        """
        with suppress(SQLAlchemyError), self._write() as session:
            row = session.get(Heartbeat, process, with_for_update=True)
            host = None if row is None else (row.detail or {}).get("host")
            if row is not None and row.pid == os.getpid() and host in (None, socket.gethostname()):
                row.at, row.detail = self.now(), {"stopped": True} | ({"host": host} if host else {})

    def sign_on(self, kind: str) -> str:
        """Return the name under which one of possibly several processes of a kind beats, and beat for the first time.

        The first one has the name of its kind, others that are alive beside it a number behind it. What a dead one left is
        taken over; what is left of more than an hour ago is removed.
        """
        here = {"pid": os.getpid(), "at": self.now(), "detail": {"host": socket.gethostname()}}
        number = 0
        while True:
            number += 1
            name = kind if number == 1 else f"{kind} {number}"
            try:
                with self._write() as session:
                    row = session.get(Heartbeat, name, with_for_update=True)
                    if row is not None and self._lives(row):
                        continue
                    session.merge(Heartbeat(process=name, **here))
                    others = Heartbeat.process.startswith(f"{kind} ", autoescape=True), Heartbeat.process != name
                    session.execute(delete(Heartbeat).where(*others, Heartbeat.at < self.now() - FORGOTTEN_AFTER))
            except IntegrityError:  # another one was faster with this name
                continue
            return name

    def _lives(self, row: Heartbeat) -> bool:
        """Whether another process than this one has beaten under this name and, as far as can be told, still would."""
        host = (row.detail or {}).get("host")
        if host is None or life_of(row, self.now()) != Life.ALIVE:
            return False
        if host != socket.gethostname():
            return True
        return row.pid != os.getpid() and Path(f"/proc/{row.pid}").exists()

    def processes(self) -> Sequence[Heartbeat]:
        """Return the last sign of life of every process."""
        with self._read() as session:
            return tuple(session.scalars(select(Heartbeat).order_by(Heartbeat.process)))

    def _note(self, session: Session, job_id: int, code: str, text: str, milliseconds: float | None = None) -> None:
        appended(session, JobEvent, [self._event(job_id, code, text, milliseconds)])

    def _event(self, job_id: int, code: str, text: str, milliseconds: float | None) -> dict[str, Any]:
        said = {"code": code, "text": text, "milliseconds": milliseconds}
        return {"job_id": job_id, "at": self.now(), "process": self.process, **said}

    def _locked(self, session: Session, job_id: int) -> Job:
        return self._found(session.get(Job, job_id, with_for_update=True), job_id)

    @staticmethod
    def _found(job: Job | None, job_id: int) -> Job:
        if job is None:
            raise UnknownJob(f"there is no job {job_id}")
        return job
