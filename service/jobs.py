"""Move each job from state to state; the database decides who works on what.

Every step claims the row by a conditional UPDATE that hands out a lease token, and every later write of that step names the
token: a message delivered twice, two workers or a worker that was thought dead change nothing. Times are aware UTC and come
from the clock that is passed in.
"""

import datetime as dt
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from service.db import AmendedJob, Job, Quarantined, ResultObject, ResultState, State
from service.errors import CarpusError
from service.ledger import DEADLINES, FINAL, UnknownJob
from service.reception import DuplicateInstance, ReceivedInstance, Reception

__all__ = [
    "FINAL",
    "Claim",
    "DuplicateInstance",
    "Jobs",
    "LeaseLost",
    "Quarantined",
    "ReceivedInstance",
    "ResultState",
    "State",
    "Sweep",
    "UnknownJob",
]


TRANSITIONS: Final[Mapping[State, tuple[State, ...]]] = {
    State.RECEIVED: (State.PREPARED, State.INFERRED, State.FILTERED),
    State.PREPARED: (State.INFERRED,),
    State.INFERRED: (State.DELIVERED, State.REJECTED),
    State.DELIVERED: (State.CONFIRMED,),
}
PUBLISHED_STATES: Final = (State.PREPARED, State.INFERRED)  # the next step of these is started by a message
MAXIMUM_LOSSES: Final = 3  # a job whose worker died this often is taken out: it is likely what kills them
REPUBLISH_AFTER: Final = dt.timedelta(minutes=10)


class LeaseLost(CarpusError):
    """The lease ran out and the job went to somebody else; what this worker made is not to be used."""

    code = "lease-lost"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on one step of one job until the lease runs out."""

    job: Job
    token: str
    started_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep found: ids of jobs."""

    released: tuple[int, ...] = ()  # the lease had run out; to be worked on again
    abandoned: tuple[int, ...] = ()  # lost their worker too often; FAILED now
    overdue: tuple[int, ...] = ()  # newly past the deadline of their state


class Jobs(Reception):
    """The repository of jobs: `Ledger` reads it, `Reception` adds to it, this class moves what is in it."""

    def unprepared(self, received_before: dt.datetime, limit: int) -> list[int]:
        """Return ids of *jobs* in RECEIVED that nobody works on and whose time has come, oldest first within a priority."""
        with self._read() as session:
            query = select(Job.id).where(self._claimable(State.RECEIVED), Job.created_at <= received_before)
            return list(session.scalars(query.order_by(Job.priority, Job.id).limit(limit)))

    def prepare_failed(
        self, job_id: int, code: str, text: str, *, permanent: bool, maximum_attempts: int = 5, next_action: str = ""
    ) -> bool:
        """Count a failed preparation with back-off; True when that was the last and the job is FAILED with its cause."""
        job = self.get(job_id)
        if job.state != State.RECEIVED:
            return False
        last = permanent or job.attempts >= maximum_attempts
        delay = dt.timedelta(seconds=min(2.0**job.attempts, 300))
        self._failed(job, None, code, text, next_action, None if last else delay)
        return last

    def claim(self, job_id: int, state: State) -> Claim | None:
        """Take the step that follows `state`; None when the job is elsewhere, taken, or its time has not come."""
        with self._write() as session:
            return self._take(session, job_id, state)

    def claim_next(self, state: State) -> Claim | None:
        """Take the next waiting job of that state without a message: how workers go on while the broker is down."""
        query = select(Job.id).where(self._claimable(state)).order_by(Job.priority, Job.id).limit(1)
        with self._write() as session:
            job_id = session.scalar(query.with_for_update(skip_locked=True))
            return None if job_id is None else self._take(session, job_id, state)

    def heartbeat(self, claim: Claim) -> bool:
        """Extend the lease; False when it was lost."""
        with self._write() as session:
            held = and_(Job.id == claim.job.id, Job.lease_token == claim.token)
            done = session.execute(update(Job).where(held).values(lease_expires_at=self.now() + self.lease))
            return bool(done.rowcount == 1)  # type: ignore[attr-defined]  # CursorResult

    def advance(
        self, claim: Claim, to: State, text: str = "", *, timings_ms: Mapping[str, float] | None = None, **fields: Any
    ) -> None:
        """Finish the claimed step: write its fields, the new state and the timeline in one transaction.

        Raises
        ------
        LeaseLost
            When the lease went to somebody else in the meantime; nothing is written.
        ValueError
            When the state machine has no such transition.
        """
        before = State(claim.job.state)
        if to not in TRANSITIONS.get(before, ()):
            raise ValueError(f"a job does not go from {before} to {to}")
        now = self.now()
        with self._write() as session:
            for name, milliseconds in (timings_ms or {}).items():
                self._note(session, claim.job.id, name, "", milliseconds)
            elapsed = (now - claim.started_at).total_seconds() * 1000
            self._note(session, claim.job.id, to.value.lower(), text, elapsed)
            settled = {"cause_code": None, "cause_text": None, "next_action": None}
            self._write_row(session, claim.job.id, claim.token, self._entered(to, now) | settled | fields)

    def retry_later(self, claim: Claim, code: str, text: str, delay: dt.timedelta, next_action: str = "") -> None:
        """Release the claimed step, to be tried again after the delay."""
        self._failed(claim.job, claim.token, code, text, next_action, delay)

    def fail(self, claim: Claim, code: str, text: str, next_action: str) -> None:
        """Put the job among the dead letters with its cause and what to do about it."""
        self._failed(claim.job, claim.token, code, text, next_action, None)

    def note(self, job_id: int, code: str, text: str, milliseconds: float | None = None) -> None:
        """Add a line to the timeline."""
        with self._write() as session:
            self._note(session, job_id, code, text, milliseconds)

    def unpublished(
        self,
        *,
        limit: int = 500,
        older_than: dt.timedelta = REPUBLISH_AFTER,
        settled_for: dt.timedelta = dt.timedelta(0),
        state: State | None = None,
    ) -> list[tuple[int, State]]:
        """Return waiting jobs whose message was never sent, is due again after a failure, or was sent too long ago.

        Parameters
        ----------
        older_than
            The age from which a message counts as lost; short where the broker is known to hold none.
        settled_for
            How long the job must have been in its state: whoever put it there is about to send the message.
        state
            Only jobs of this state.
        """
        stale = self.now() - older_than
        due = or_(*(self._claimable(each) for each in ([state] if state else PUBLISHED_STATES)))
        unsent = or_(Job.published_at.is_(None), Job.published_at < stale)
        with self._read() as session:
            settled = Job.state_since <= self.now() - settled_for
            query = select(Job.id, Job.state).where(due, unsent, settled)
            rows = session.execute(query.order_by(Job.priority, Job.id).limit(limit))
            return [(job_id, State(found)) for job_id, found in rows]

    def published(self, job_id: int, state: State) -> None:
        """Remember that the message for the step after `state` is with the broker."""
        with self._write() as session:
            here = and_(Job.id == job_id, Job.state == state)
            session.execute(update(Job).where(here).values(published_at=self.now()))

    def sweep(self) -> Sweep:
        """Release leases that ran out, take out jobs that keep losing their worker, mark what is overdue."""
        now = self.now()
        with self._write() as session:
            released, abandoned = self._release(session, Job.lease_expires_at < now, "gave no sign of life")
            late = and_(Job.deadline < now, Job.overdue.is_(False), Job.state.not_in(FINAL))
            overdue = list(session.scalars(select(Job.id).where(late)))
            session.execute(update(Job).where(Job.id.in_(overdue)).values(overdue=True))
            for job_id in overdue:
                self._note(session, job_id, "overdue", "past the deadline of its state")
        return Sweep(tuple(released), tuple(abandoned), tuple(overdue))

    def release(self, owner: str) -> Sweep:
        """Release at once what a worker held that is known to be dead."""
        with self._write() as session:
            released, abandoned = self._release(session, Job.lease_owner == owner, "died")
        return Sweep(tuple(released), tuple(abandoned))

    def retry(self, job_id: int) -> State:
        """Send a FAILED or CANCELLED job back to the step it left, or start a waiting one now; return its state."""
        now = self.now()
        with self._write() as session:
            job = self._locked(session, job_id)
            if job.state in (State.FAILED, State.CANCELLED):
                job.state, job.resume_state = job.resume_state or State.RECEIVED, None
            elif job.state in (*FINAL, State.DELIVERED):
                raise UnknownJob(f"job {job_id} is {job.state}; there is nothing to retry")
            fresh = self._entered(State(job.state), now) | {"cause_code": None, "cause_text": None, "next_action": None}
            self._note(session, job_id, "retry", f"asked for; goes on from {job.state}")
            self._write_row(session, job_id, None, fresh)
            return State(job.state)

    def cancel(self, job_id: int, text: str = "cancelled by a person") -> None:
        """Stop a job that is not finished; whoever works on it loses the lease."""
        now = self.now()
        with self._write() as session:
            job = self._locked(session, job_id)
            if job.state in (*FINAL, State.DELIVERED) and job.state != State.FAILED:
                raise UnknownJob(f"job {job_id} is {job.state}; there is nothing to cancel")
            fields = {"resume_state": job.resume_state or job.state, "cause_code": "cancelled", "cause_text": text}
            self._note(session, job_id, "cancelled", text)
            self._write_row(session, job_id, None, self._entered(State.CANCELLED, now) | fields)

    def requeue(self, job_id: int) -> int:
        """Read the film of a job once more as a new revision; return the id of the new job."""
        with self._write() as session:
            job = self._revised(session, self._locked(session, job_id), State.RECEIVED)
            self._note(session, job.id, "received", f"revision {job.revision} of the film of job {job_id}, asked for")
            return job.id

    def amend(self, job_id: int, amendment: Mapping[str, Any], reading: str, text: str) -> int:
        """Add a person's correction of a delivered reading as a new revision, to be delivered; return the id of its job.

        Parameters
        ----------
        amendment
            Columns of `AmendedJob` but the two ids.
        reading
            The corrected Reading as JSON.
        text
            For both timelines.

        Raises
        ------
        UnknownJob
            When the job is in no state that allows it, or another correction that stands was made from it.
        """
        with self._write() as session:
            old = self._locked(session, job_id)
            if old.state not in (State.DELIVERED, State.CONFIRMED) or old.outcome != "reading":
                raise UnknownJob(f"job {job_id} is {old.state}; a reading is corrected once it has been delivered")
            query = select(Job).join(AmendedJob, AmendedJob.job_id == Job.id)
            for later in session.scalars(query.where(AmendedJob.amended_job_id == job_id)):
                if later.state != State.CANCELLED:
                    raise UnknownJob(f"job {job_id} was corrected by job {later.id}; correct that one")
            kept = ("outcome", "deidentified_name", "sex", "age_days", "bundle_sha256")
            fields = {name: getattr(old, name) for name in kept} | {"reading": reading, "read_at": amendment["at"]}
            job = self._revised(session, old, State.INFERRED, **fields)
            session.add(AmendedJob(job_id=job.id, amended_job_id=job_id, **amendment))
            self._note(session, job.id, "amended", f"revision {job.revision}, from job {job_id}: {text}")
            self._note(session, job_id, "amended", f"by job {job.id}: {text}")
            return job.id

    def _revised(self, session: Session, old: Job, state: State, **fields: Any) -> Job:
        """Add the next revision of a film's job."""
        now = self.now()
        last = session.scalar(select(func.max(Job.revision)).where(Job.instance_id == old.instance_id)) or 0
        entered = self._entered(state, now) | fields
        job = Job(instance_id=old.instance_id, revision=last + 1, priority=old.priority, created_at=now, **entered)
        session.add(job)
        session.flush()
        return job

    def record_results(self, claim: Claim, built: Sequence[Mapping[str, Any]]) -> None:
        """Record the objects built for the claimed delivery; a repeat replaces rows, never adds any.

        Each mapping holds destination, kind, SOPClassUID, SOPInstanceUID, SeriesInstanceUID, name and sha256. What a
        destination accepted under the same SOPInstanceUID stays accepted.
        """
        now = self.now()
        with self._write() as session:
            known = {(row.destination, row.kind): row for row in session.scalars(self._results(claim.job.id))}
            for fields in built:
                row = known.pop((fields["destination"], fields["kind"]), None)
                if row is None:
                    session.add(ResultObject(job_id=claim.job.id, state=ResultState.BUILT, updated_at=now, **fields))
                elif row.SOPInstanceUID != fields["SOPInstanceUID"]:
                    for key, value in fields.items():
                        setattr(row, key, value)
                    row.state, row.status_code, row.updated_at = ResultState.BUILT, None, now
            gone = [row.id for row in known.values() if row.state in (ResultState.BUILT, ResultState.REFUSED)]
            session.execute(delete(ResultObject).where(ResultObject.id.in_(gone)))

    def record_status(
        self, job_id: int, destination: str, sop_instance_uid: str, state: ResultState, status_code: int | None = None
    ) -> None:
        """Record what a destination said about one object."""
        with self._write() as session:
            where = and_(
                ResultObject.job_id == job_id,
                ResultObject.destination == destination,
                ResultObject.SOPInstanceUID == sop_instance_uid,
            )
            values: dict[str, Any] = {"state": state, "updated_at": self.now()}
            if status_code is not None:
                values["status_code"] = status_code
            session.execute(update(ResultObject).where(where).values(**values))

    def _take(self, session: Session, job_id: int, state: State) -> Claim | None:
        now = self.now()
        token = secrets.token_hex(16)
        lease = {"lease_token": token, "lease_owner": self.process, "lease_expires_at": now + self.lease}
        taken = update(Job).where(Job.id == job_id, self._claimable(state))
        done = session.execute(taken.values(attempts=Job.attempts + 1, updated_at=now, **lease))
        if done.rowcount != 1:  # type: ignore[attr-defined]  # CursorResult, which the stubs call Result
            return None
        return Claim(session.get_one(Job, job_id), token, now)

    def _release(self, session: Session, which: ColumnElement[bool], what: str) -> tuple[Sequence[int], Sequence[int]]:
        now = self.now()
        released, abandoned = [], []
        held = select(Job).where(Job.lease_token.is_not(None), which)
        for job in session.scalars(held.with_for_update(skip_locked=True)):
            owner = job.lease_owner or "an unknown worker"
            job.lease_token = job.lease_owner = job.lease_expires_at = None
            job.updated_at = now
            job.losses += 1
            if job.losses >= MAXIMUM_LOSSES:
                job.resume_state, job.state, job.state_since, job.deadline = job.state, State.FAILED, now, None
                job.cause_code = "worker-lost"
                job.cause_text = f"{job.losses} workers died while working on this job, the last one {owner}"
                job.next_action = "look into the worker's log for this job, then retry or cancel it"
                abandoned.append(job.id)
            else:
                job.published_at = None
                released.append(job.id)
            self._note(session, job.id, "lease-lost", f"{owner} {what}; loss {job.losses}")
        return released, abandoned

    @staticmethod
    def _entered(state: State, now: dt.datetime) -> dict[str, Any]:
        """Return what every entry into a state resets."""
        return {
            "state": state,
            "attempts": 0,
            "losses": 0,
            "not_before": now,
            "published_at": None,
            "deadline": now + DEADLINES[state] if state in DEADLINES else None,
            "overdue": False,
            "first_failed_at": None,
            "state_since": now,
            "updated_at": now,
            "lease_token": None,
            "lease_owner": None,
            "lease_expires_at": None,
        }

    def _failed(
        self, job: Job, token: str | None, code: str, text: str, next_action: str, delay: dt.timedelta | None
    ) -> None:
        now = self.now()
        cause = {"cause_code": code, "cause_text": text, "next_action": next_action}
        with self._write() as session:
            if delay is None:
                fields = self._entered(State.FAILED, now) | {"resume_state": job.state} | cause
                fields["attempts"] = job.attempts
                self._note(session, job.id, "failed", f"{code}: {text}")
            else:
                fields = {
                    "lease_token": None,
                    "lease_owner": None,
                    "lease_expires_at": None,
                    "published_at": None,
                    "not_before": now + delay,
                    "first_failed_at": job.first_failed_at or now,
                    "updated_at": now,
                } | cause
                self._note(session, job.id, "retry-later", f"{code}: {text}; again in {delay.total_seconds():.0f} s")
            self._write_row(session, job.id, token, fields, state=State(job.state))

    @staticmethod
    def _write_row(
        session: Session, job_id: int, token: str | None, fields: Mapping[str, Any], *, state: State | None = None
    ) -> None:
        where = [Job.id == job_id]
        if token is not None:
            where.append(Job.lease_token == token)
        if state is not None:
            where.append(Job.state == state)
        done = session.execute(update(Job).where(*where).values(**fields))
        if done.rowcount != 1:  # type: ignore[attr-defined]  # CursorResult
            raise LeaseLost(f"job {job_id} went to somebody else")
