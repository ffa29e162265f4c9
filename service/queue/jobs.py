"""Move each job from state to state.

The repository of jobs, in the order of its bases: `ledger` reads the record, `reception` adds to it, `leases` hands out the
right to work on a step, `outbox` remembers the messages, `sendings` what became of each result; here a step ends and a person
acts. Times are aware UTC and come from the clock that is passed in.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session, aliased

from service import tracing
from service.ledger import DEADLINES, FINAL, UnknownJob
from service.queue.causes import Decision
from service.queue.leases import Claim, LeaseLost, Sweep
from service.queue.reception import DuplicateInstance, ReceivedInstance
from service.queue.sendings import Sendings
from service.queue.turns import next_turn
from service.rows import appended, changed
from service.tables import (
    AmendedJob,
    Breaker,
    BreakerState,
    Instance,
    Job,
    JobEvent,
    JobPriors,
    Priority,
    Quarantined,
    ResultObject,
    ResultState,
    State,
)

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
    # `confirmation` goes back from DELIVERED and REJECTED to INFERRED when a PACS does not keep what it accepted.
}
WAITS_FOR_EARLIER: Final = "waits-for-earlier"  # the cause of a job that waits for another one of the same patient
ANSWERED: Final = (State.DELIVERED, State.CONFIRMED, State.REJECTED)  # the PACS has got a result
_NO_CAUSE: Final[dict[str, None]] = {"cause_code": None, "cause_text": None, "next_action": None}
_NO_LEASE: Final[dict[str, None]] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}
# Asked for every film: put together once.
_OWN: Final = aliased(Instance)
_STUDY: Final = select(_OWN.StudyInstanceUID).where(_OWN.id == bindparam("id")).scalar_subquery()
_OTHERS: Final = select(Instance.id).where(Instance.StudyInstanceUID == _STUDY, Instance.id != bindparam("id"))
_ANSWERED_BEFORE: Final = (
    select(Job.id).where(Job.instance_id.in_(_OTHERS), Job.state.in_(ANSWERED)).order_by(Job.id).limit(20)
)


class Jobs(Sendings):
    """The repository of jobs."""

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
            elapsed = (now - claim.started_at).total_seconds() * 1000
            parts = [self._event(claim.job.id, name, "", took) for name, took in (timings_ms or {}).items()]
            appended(session, JobEvent, [*parts, self._event(claim.job.id, to.value.lower(), text, elapsed)])
            self._write_row(session, claim.job.id, claim.token, self._entered(to, now) | _NO_CAUSE | fields)
            if to == State.PREPARED:
                self._note_late_film(session, claim.job)
            self._let_later_ones_go(session, claim.job.subject, before)
        tracing.annotate({"state": to.value})

    def retry_later(self, claim: Claim, code: str, text: str, delay: dt.timedelta, next_action: str = "") -> None:
        """Release the claimed step, to be tried again after the delay."""
        self._failed(claim.job, claim.token, Decision(code, text, next_action, delay))

    def fail(self, claim: Claim, code: str, text: str, next_action: str) -> None:
        """Put the job among the dead letters with its cause and what to do about it."""
        self._failed(claim.job, claim.token, Decision(code, text, next_action, None))

    def prepare_failed(self, job_id: int, decision: Decision) -> bool:
        """Record a failed preparation, whoever held the lease; True when the job is FAILED with its cause."""
        job = self.get(job_id)
        if job.state != State.RECEIVED:
            return False
        self._failed(job, None, decision)
        return decision.last

    def postpone(self, claim: Claim, code: str, text: str, delay: dt.timedelta, next_action: str = "") -> None:
        """Release a step that was not tried because it would have been in vain; no attempt is counted, one line says why."""
        job, now = claim.job, self.now()
        with self._write() as session:
            if job.cause_code != code:
                self._note(session, job.id, "waits", f"{code}: {text}")
            fields = self._parked(job, now, delay) | {"attempts": job.attempts - 1}
            cause = {"cause_code": code, "cause_text": text, "next_action": next_action}
            self._write_row(session, job.id, claim.token, fields | cause, state=State(job.state))

    def note(self, job_id: int, code: str, text: str, milliseconds: float | None = None) -> None:
        """Add a line to the timeline."""
        with self._write() as session:
            self._note(session, job_id, code, text, milliseconds)

    def retry(self, job_id: int) -> State:
        """Send a FAILED or CANCELLED job back to the step it left, or start a waiting one now; return its state.

        What a destination refused is offered to it again, and one that is left alone is called at once.
        """
        now = self.now()
        with self._write() as session:
            job = self._locked(session, job_id)
            if job.state in (State.FAILED, State.CANCELLED):
                job.state, job.resume_state = job.resume_state or State.RECEIVED, None
            elif job.state in (*FINAL, State.DELIVERED):
                raise UnknownJob(
                    f"job {job_id} is {job.state}; there is nothing to retry",
                    next_action=f"`carpus jobs requeue {job_id}` reads its film once more",
                )
            refused = ResultObject.job_id == job_id, ResultObject.state == ResultState.REFUSED
            session.execute(update(ResultObject).where(*refused).values(state=ResultState.BUILT, updated_at=now))
            session.execute(update(Breaker).where(Breaker.state == BreakerState.OPEN).values(probe_at=now))
            self._note(session, job_id, "retry", f"asked for; goes on from {job.state}")
            self._write_row(session, job_id, None, self._entered(State(job.state), now) | _NO_CAUSE)
            return State(job.state)

    def cancel(self, job_id: int, text: str = "cancelled by a person") -> None:
        """Stop a job that is not finished; whoever works on it loses the lease."""
        now = self.now()
        with self._write() as session:
            job = self._locked(session, job_id)
            if job.state in (*FINAL, State.DELIVERED) and job.state != State.FAILED:
                raise UnknownJob(f"job {job_id} is {job.state}; there is nothing to cancel")
            fields = {"resume_state": job.resume_state or job.state, "cause_code": "cancelled", "cause_text": text}
            fields["next_action"] = "none; a retry lets it go on"
            self._note(session, job_id, "cancelled", text)
            subject, before = job.subject, State(job.state)
            self._write_row(session, job_id, None, self._entered(State.CANCELLED, now) | fields)
            self._let_later_ones_go(session, subject, before)

    def requeue(self, job_id: int, *, priority: Priority | None = None) -> int:
        """Read the film of a job once more as a new revision; return the id of the new job. The old result stays."""
        with self._write() as session:
            job = self._revised(session, self._locked(session, job_id), State.RECEIVED, priority=priority)
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
            kept = ("outcome", "deidentified_name", "sex", "age_days", "subject", "bundle_sha256")
            fields = {name: getattr(old, name) for name in kept} | {"reading": reading, "read_at": amendment["at"]}
            job = self._revised(session, old, State.INFERRED, **fields)
            session.add(AmendedJob(job_id=job.id, amended_job_id=job_id, **amendment))
            self._note(session, job.id, "amended", f"revision {job.revision}, from job {job_id}: {text}")
            self._note(session, job_id, "amended", f"by job {job.id}: {text}")
            return job.id

    def record_priors(self, job_id: int, destination: str, priors: Sequence[Mapping[str, Any]], note: str) -> None:
        """Keep the earlier bone ages that go into a job's results for a destination, and say in the timeline what came of it."""
        with self._write() as session:
            rows = [dict(prior) for prior in priors]
            session.merge(JobPriors(job_id=job_id, destination=destination, at=self.now(), priors=rows))
            self._note(session, job_id, "priors", f"{destination}: {note}")

    def _revised(
        self, session: Session, old: Job, state: State, *, priority: Priority | None = None, **fields: Any
    ) -> Job:
        """Add the next revision of a film's job."""
        now = self.now()
        last = session.scalar(select(func.max(Job.revision)).where(Job.instance_id == old.instance_id)) or 0
        urgency = int(old.priority if priority is None else priority)
        place = {"priority": urgency, "peer": old.peer, "turn": next_turn(session.connection(), old.peer, urgency)}
        place["traceparent"] = old.traceparent  # one trace a film, whatever becomes of it
        entered = self._entered(state, now) | fields
        job = Job(instance_id=old.instance_id, revision=last + 1, created_at=now, **place, **entered)
        session.add(job)
        session.flush()
        return job

    def prioritise(self, job_id: int, priority: Priority) -> None:
        """Let an unfinished job be served with another priority from now on."""
        with self._write() as session:
            job = self._locked(session, job_id)
            if job.state in FINAL:
                raise UnknownJob(f"job {job_id} is {job.state}; its priority decides nothing any more")
            job.turn = next_turn(session.connection(), job.peer, int(priority))
            job.priority = int(priority)
            self._note(session, job_id, "priority", f"{priority.name}, asked for")

    @staticmethod
    def _entered(state: State, now: dt.datetime) -> dict[str, Any]:
        """Return what every entry into a state resets."""
        return {
            "state": state,
            "attempts": 0,
            "losses": 0,
            "not_before": now,
            "parked": False,
            "published_at": None,
            "deadline": now + DEADLINES[state] if state in DEADLINES else None,
            "overdue": False,
            "first_failed_at": None,
            "state_since": now,
            "updated_at": now,
            **_NO_LEASE,
        }

    @staticmethod
    def _parked(job: Job, now: dt.datetime, delay: dt.timedelta) -> dict[str, Any]:
        """Return what makes a job wait in its state for a later try."""
        return {
            **_NO_LEASE,
            "published_at": None,
            "not_before": now + delay,
            "parked": True,
            "first_failed_at": job.first_failed_at or now,
            "updated_at": now,
        }

    def _failed(self, job: Job, token: str | None, decision: Decision) -> None:
        now = self.now()
        cause = {"cause_code": decision.code, "cause_text": decision.text, "next_action": decision.next_action}
        with self._write() as session:
            if decision.delay is None:
                fields = self._entered(State.FAILED, now) | {"resume_state": job.state} | cause
                fields["attempts"] = job.attempts
                self._note(session, job.id, "failed", f"{decision.code}: {decision.text}")
            else:
                fields = self._parked(job, now, decision.delay) | cause
                again = f"again in {decision.delay.total_seconds():.0f} s"
                self._note(session, job.id, "retry-later", f"{decision.code}: {decision.text}; {again}")
            self._write_row(session, job.id, token, fields, state=State(job.state))
            if decision.delay is None:
                self._let_later_ones_go(session, job.subject, State(job.state))

    def _note_late_film(self, session: Session, job: Job) -> None:
        """Say on the timelines that a film came after its study had been answered; the earlier results stay as they are."""
        earlier = list(session.scalars(_ANSWERED_BEFORE, {"id": job.instance_id}))
        if earlier:
            named = ", ".join(map(str, earlier))
            self._note(session, job.id, "late-film", f"its study has been answered already, by job {named}")
        for each in earlier:
            self._note(session, each, "late-film", f"job {job.id} reads another film of this study; this result stays")

    def _let_later_ones_go(self, session: Session, subject: str | None, left: State) -> None:
        """Start what waited for a job that has left this state, because it is of the same patient."""
        if subject is not None and left == State.INFERRED:
            waiting = {"subject": subject, "parked": True, "cause_code": WAITS_FOR_EARLIER}
            changed(session, Job, waiting, {"parked": False, "not_before": self.now()})

    @staticmethod
    def _write_row(
        session: Session, job_id: int, token: str | None, fields: Mapping[str, Any], *, state: State | None = None
    ) -> None:
        where: dict[str, Any] = {"id": job_id}
        where |= {} if token is None else {"lease_token": token}
        where |= {} if state is None else {"state": state}
        if changed(session, Job, where, fields) != 1:
            raise LeaseLost(f"job {job_id} went to somebody else")
