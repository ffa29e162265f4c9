"""Record what each PACS has proved to keep: "accepted" is what a C-STORE response said, "confirmed" is what was proved later.

Proof is a Storage Commitment report (PS3.4 J) or a C-FIND that finds the instance. What a PACS accepted and does not keep goes back
to the ordinary delivery, a bounded number of times; then a person is told. A job is CONFIRMED when every destination that is to
prove anything has done so; a rejected film keeps its state, and `confirmed_at` says that its report is confirmed.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Engine, and_, or_, select, update
from sqlalchemy.orm import Session

from service import tracing, uids
from service.queue.jobs import Jobs
from service.rows import appended, changed
from service.tables import Commitment, CommitmentState, Instance, Job, JobEvent, ResultObject, ResultState, State

CLAIM: Final = dt.timedelta(minutes=2)  # how long whoever took objects to confirm them may work before another one does
BATCH: Final = 200  # objects asked about at once
RESEND_DELAYS_SECONDS: Final = (5.0, 60.0, 600.0)  # before each further sending; the last one repeats
SENT_STATES: Final = (State.DELIVERED, State.REJECTED)  # everything is accepted; only proof is missing
OPEN: Final = (ResultState.BUILT, ResultState.ACCEPTED, ResultState.MISSING, ResultState.REFUSED)


class Way(StrEnum):
    """How an object was proved to be kept."""

    COMMITMENT = "commitment"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Unproved:
    """One accepted object whose destination has yet to prove that it keeps it."""

    id: int
    job_id: int
    kind: str
    SOPClassUID: str
    SOPInstanceUID: str
    SeriesInstanceUID: str
    StudyInstanceUID: str
    transaction_uid: str | None  # of a commitment that was asked for and never reported
    checks: int  # how often it was looked for in vain since it was last sent


@dataclass(frozen=True, slots=True)
class Failure:
    """What a commitment report says about an object that it does not commit to."""

    SOPInstanceUID: str
    reason: int | None


# FailureReason (PS3.3 C.14.1.1): whether sending the object again can help, and what to do where it cannot.
REASONS: Final[Mapping[int, tuple[str, bool, str]]] = {
    0x0110: ("processing failure", True, "ask the PACS administrator for its log of this instance, then retry the job"),
    0x0112: ("no such object instance", True, "the PACS accepted the object and lost it: ask for its log, then retry"),
    0x0119: ("class/instance conflict", False, "an object of another SOP class holds this UID in the PACS: remove it"),
    0x0122: (
        "SOP class not supported",
        False,
        "in the PACS, allow commitment of this SOP class, or set confirm: query",
    ),
    0x0131: ("duplicate transaction UID", True, "the PACS confuses two requests: ask for its log, then retry the job"),
    0x0213: ("resource limitation", True, "make room in the PACS, then retry the job"),
}
MISSED: Final = (
    "it was accepted and cannot be found",
    True,
    "see in the PACS why it drops what it accepts; if its query service does not show results, set confirm: none",
)


class Confirmations(Jobs):
    """The repository of jobs, seen from the side of proof.

    Parameters
    ----------
    required
        Names of the destinations that are to prove what they keep (`confirm` is not none).
    maximum_resends
        How often an object that was lost is sent again before the job is FAILED.
    ae_titles
        Of the destinations by name, for traces.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        required: Iterable[str],
        maximum_resends: int = 3,
        ae_titles: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(engine, **options)
        self.required = frozenset(required)
        self.ae_titles = dict(ae_titles or {})
        self.maximum_resends = maximum_resends

    def due(self, destination: str, limit: int = BATCH) -> list[Unproved]:
        """Take accepted objects of a destination that are to be proved now; nobody else gets them for a while."""
        now = self.now()
        ready = and_(
            ResultObject.destination == destination,
            ResultObject.state == ResultState.ACCEPTED,
            or_(ResultObject.confirm_after.is_(None), ResultObject.confirm_after <= now),
        )
        columns = (
            *(ResultObject.id, ResultObject.job_id, ResultObject.kind, ResultObject.SOPClassUID),
            *(ResultObject.SOPInstanceUID, ResultObject.SeriesInstanceUID, Instance.StudyInstanceUID),
            *(ResultObject.transaction_uid, ResultObject.checks),
        )
        # A job that somebody works on is being sent: its objects are asked about together, afterwards.
        query = (
            select(*columns)
            .join(Job, Job.id == ResultObject.job_id)
            .join(Instance, Instance.id == Job.instance_id)
            .where(ready, Job.lease_token.is_(None))
            .order_by(ResultObject.id)
            .limit(limit)
        )
        with self._read() as session:  # most of the time there is nothing: no lock for that
            if session.execute(query.limit(1)).first() is None:
                return []
        with self._write() as session:
            rows = session.execute(query.with_for_update(skip_locked=True, of=ResultObject)).all()
            taken = update(ResultObject).where(ResultObject.id.in_([row[0] for row in rows]))
            session.execute(taken.values(confirm_after=now + CLAIM))
        return [Unproved(*row) for row in rows]

    def ask(self, destination: str, objects: Sequence[Unproved], due_at: dt.datetime) -> str:
        """Record a commitment request before it is sent; return its transaction UID."""
        transaction_uid = uids.random()
        with self._write() as session:
            now = self.now()
            session.add(
                Commitment(
                    transaction_uid=transaction_uid,
                    role="requestor",
                    peer=destination,
                    state=CommitmentState.ASKED,
                    created_at=now,
                    due_at=due_at,
                    objects=len(objects),
                )
            )
            session.execute(
                update(ResultObject)
                .where(ResultObject.id.in_([each.id for each in objects]), ResultObject.state == ResultState.ACCEPTED)
                .values(transaction_uid=transaction_uid, confirm_after=due_at)
            )
            text = f"of {destination}, transaction {transaction_uid}"
            jobs = sorted({each.job_id for each in objects})
            appended(session, JobEvent, [self._event(job_id, "commitment-asked", text, None) for job_id in jobs])
        return transaction_uid

    def withdraw(self, transaction_uid: str, why: str) -> None:
        """Take back a request that the peer did not accept: its objects are free to be proved in another way."""
        with self._write() as session:
            self._settle(session, transaction_uid, CommitmentState.REFUSED, why)
            session.execute(
                update(ResultObject)
                .where(ResultObject.transaction_uid == transaction_uid)
                .values(transaction_uid=None, confirm_after=self.now())
            )

    def is_settled(self, transaction_uid: str) -> bool:
        """Whether a report on this request has come, on whatever association."""
        with self._read() as session:
            state = session.scalar(select(Commitment.state).where(Commitment.transaction_uid == transaction_uid))
        return state != CommitmentState.ASKED

    def outcome(self, transaction_uid: str) -> str | None:
        """Return what the report on this request said, in numbers; None when none has come."""
        mine = and_(Commitment.transaction_uid == transaction_uid, Commitment.state == CommitmentState.REPORTED)
        with self._read() as session:
            return session.scalar(select(Commitment.detail).where(mine))

    def came_from_another(self, transaction_uid: str, peer: str) -> None:
        """Remember that a report on this request came from another AE title than was asked; it was refused."""
        open_one = and_(Commitment.transaction_uid == transaction_uid, Commitment.state == CommitmentState.ASKED)
        with self._write() as session:
            session.execute(update(Commitment).where(open_one).values(detail=peer))

    def reported_by(self, transaction_uid: str) -> str | None:
        """Return the AE title whose report on this request was refused, because another one was asked; None when none came."""
        open_one = and_(Commitment.transaction_uid == transaction_uid, Commitment.state == CommitmentState.ASKED)
        with self._read() as session:
            return session.scalar(select(Commitment.detail).where(open_one))

    def asked_of(self, transaction_uid: str) -> str | None:
        """Return the destination that we asked under this transaction UID, or None when it is none of ours."""
        mine = and_(Commitment.transaction_uid == transaction_uid, Commitment.role == "requestor")
        with self._read() as session:
            return session.scalar(select(Commitment.peer).where(mine))

    def report(self, transaction_uid: str, committed: Iterable[str], failed: Iterable[Failure]) -> int:
        """Record a commitment report, however late and however often; return how many objects it confirmed.

        Parameters
        ----------
        committed
            SOP Instance UIDs that the PACS commits to keep.
        failed
            What it does not commit to.
        """
        with self._write() as session:
            asked = session.scalars(
                select(Commitment).where(Commitment.transaction_uid == transaction_uid).with_for_update()
            ).one()
            ours = and_(ResultObject.destination == asked.peer, ResultObject.state.in_(OPEN))
            said = [*committed]
            of_these = ResultObject.SOPInstanceUID.in_(said)
            kept = [*session.scalars(select(ResultObject).where(ours, of_these))]
            confirmed = self._confirm(session, kept, Way.COMMITMENT, f"{asked.peer} commits to keep it")
            # A failure of a request that was superseded says nothing about what was sent since.
            reasons = {failure.SOPInstanceUID: failure.reason for failure in failed}
            current = and_(ResultObject.transaction_uid == transaction_uid, ResultObject.state == ResultState.ACCEPTED)
            lost = session.scalars(select(ResultObject).where(current, ResultObject.SOPInstanceUID.in_([*reasons])))
            self._missing(session, {row: reasons[row.SOPInstanceUID] for row in lost})
            named = len(set(said))
            self._settle(
                session, transaction_uid, CommitmentState.REPORTED, f"{named} committed, {len(reasons)} failed"
            )
            self._promote(session, {row.job_id for row in kept})
        return confirmed

    def found(self, objects: Sequence[Unproved], text: str) -> int:
        """Record that a C-FIND found these objects; return how many were not known to be kept before."""
        if not objects:
            return 0
        with self._write() as session:
            which = and_(ResultObject.id.in_([each.id for each in objects]), ResultObject.state.in_(OPEN))
            rows = [*session.scalars(select(ResultObject).where(which))]
            confirmed = self._confirm(session, rows, Way.QUERY, text)
            self._promote(session, {row.job_id for row in rows})
        return confirmed

    def missing(self, objects: Sequence[Unproved]) -> None:
        """Record that the PACS accepted these objects and does not have them: they are sent again, or a person is told."""
        if not objects:
            return
        with self._write() as session:
            which = [ResultObject.id.in_([each.id for each in objects]), ResultObject.state == ResultState.ACCEPTED]
            self._missing(session, dict.fromkeys(session.scalars(select(ResultObject).where(*which)), None))

    def look_again(self, objects: Sequence[Unproved], delay_seconds: float, *, in_vain: bool) -> None:
        """Ask about these objects again later; `in_vain` counts a look that did not find them."""
        if not objects:
            return
        later = self.now() + dt.timedelta(seconds=delay_seconds)
        values: dict[str, Any] = {"confirm_after": later}
        if in_vain:
            values |= {"checks": ResultObject.checks + 1}
        with self._write() as session:
            which = ResultObject.id.in_([each.id for each in objects])
            session.execute(update(ResultObject).where(which).values(**values))

    def unprovable(self, objects: Sequence[Unproved], code: str, text: str, next_action: str) -> None:
        """Say of delivered jobs why nothing more than the acceptance can be known, and what would change that."""
        jobs, fresh = {each.job_id for each in objects}, {each.job_id for each in objects if not each.checks}
        which = and_(Job.id.in_(jobs), Job.state.in_(SENT_STATES), Job.confirmed_at.is_(None))
        with self._write() as session:
            for job in session.scalars(select(Job).where(which)):
                if job.state == State.DELIVERED:  # a rejected film's cause is why it was rejected
                    job.cause_code, job.cause_text, job.next_action = code, text, next_action
                    job.deadline = None
                if job.id in fresh:
                    self._note(session, job.id, code, text)

    def promote(self) -> None:
        """Confirm every job whose last proof came while another one was being recorded, or whose destinations changed."""
        with self._write() as session:
            self._promote(session)

    def _confirm(self, session: Session, rows: Sequence[ResultObject], way: Way, text: str) -> int:
        now = self.now()
        self._trace(session, rows, way, now)
        for row in rows:
            row.state, row.confirmed_at, row.confirmed_by = ResultState.CONFIRMED, now, way
            row.failure_reason = None
        kinds: dict[int, list[str]] = {}
        for row in rows:
            kinds.setdefault(row.job_id, []).append(row.kind)
        said = [self._event(job, "object-confirmed", f"{', '.join(kinds[job])}: {text}", None) for job in sorted(kinds)]
        appended(session, JobEvent, said)
        return len(rows)

    def _trace(self, session: Session, rows: Sequence[ResultObject], way: Way, now: dt.datetime) -> None:
        """Add to each film's trace how long its results were accepted and not yet proved."""
        if not tracing.on():
            return
        proved: dict[int, list[ResultObject]] = {}
        for row in rows:
            if row.state != ResultState.CONFIRMED:
                proved.setdefault(row.job_id, []).append(row)
        for job in session.scalars(select(Job).where(Job.id.in_([*proved]))):
            mine = proved[job.id]
            name = mine[0].destination
            told: dict[str, str | int] = {
                "job": job.id,
                "revision": job.revision,
                "attempt": 1 + max(row.resends for row in mine),
                "destination": name,
                "called_ae_title": self.ae_titles.get(name, ""),
                "proof": way.value,
                "objects": len(mine),
            }
            accepted_at = max(row.updated_at for row in mine)
            tracing.record("confirm", parent=job.traceparent, started=accepted_at, ended=now, attributes=told)

    def _missing(self, session: Session, rows: Mapping[ResultObject, int | None]) -> None:
        now = self.now()
        by_job: dict[int, list[ResultObject]] = {}
        for row, reason in rows.items():
            row.state, row.failure_reason, row.updated_at = ResultState.MISSING, reason, now
            row.transaction_uid = row.confirm_after = None
            row.checks, row.resends = 0, row.resends + 1
            by_job.setdefault(row.job_id, []).append(row)
        for job_id, lost in by_job.items():
            self._send_again(session, job_id, lost)

    def _send_again(self, session: Session, job_id: int, lost: Sequence[ResultObject]) -> None:
        """Give a job back to the delivery, or to a person when that has been tried often enough."""
        now = self.now()
        job = session.get_one(Job, job_id, with_for_update=True)
        worst = max(lost, key=lambda row: (not _explained(row.failure_reason)[1], row.resends))
        meaning, sending_helps, action = _explained(worst.failure_reason)
        text = f"{worst.destination} accepted {', '.join(row.kind for row in lost)} and does not keep it: {meaning}"
        if sending_helps and worst.resends <= self.maximum_resends:
            self._note(session, job_id, "not-kept", f"{text}; sent again ({worst.resends} of {self.maximum_resends})")
            if job.state in SENT_STATES:
                delay = RESEND_DELAYS_SECONDS[min(worst.resends, len(RESEND_DELAYS_SECONDS)) - 1]
                fields = self._entered(State.INFERRED, now) | {
                    "not_before": now + dt.timedelta(seconds=delay),
                    "parked": True,
                    "cause_code": "not-kept",
                    "cause_text": text,
                    "next_action": "none: it is sent again",
                }
                session.execute(update(Job).where(Job.id == job_id).values(**fields))
            return
        for row in lost:
            row.resends = 0  # a retry by a person gets as many tries
        self._note(session, job_id, "not-kept", f"{text}; given up after {worst.resends or self.maximum_resends} times")
        cause = {"cause_code": "not-kept", "cause_text": text, "next_action": action, "resume_state": State.INFERRED}
        session.execute(update(Job).where(Job.id == job_id).values(**self._entered(State.FAILED, now) | cause))

    def _promote(self, session: Session, job_ids: Iterable[int] | None = None) -> None:
        """Confirm the jobs, of these or of all, of which nothing is unproved: DELIVERED goes on, REJECTED keeps its state."""
        now = self.now()
        if not self.required:
            return
        proving = and_(ResultObject.job_id == Job.id, ResultObject.destination.in_(self.required))
        unproved = select(ResultObject.id).where(proving, ResultObject.state != ResultState.CONFIRMED).exists()
        proved = select(ResultObject.id).where(proving, ResultObject.state == ResultState.CONFIRMED).exists()
        done = and_(Job.state.in_(SENT_STATES), Job.confirmed_at.is_(None), proved, ~unproved)
        if job_ids is not None:
            done = and_(Job.id.in_([*job_ids]), done)
        for job in session.scalars(select(Job).where(done).with_for_update(skip_locked=True, of=Job)):
            since = (now - job.state_since).total_seconds() * 1000
            self._note(session, job.id, "confirmed", "every destination has proved that it keeps the results", since)
            values: dict[str, Any] = {"confirmed_at": now, "updated_at": now}
            if job.state == State.DELIVERED:
                values |= self._entered(State.CONFIRMED, now) | dict.fromkeys(
                    ("cause_code", "cause_text", "next_action")
                )
            changed(session, Job, {"id": job.id}, values)

    def _settle(self, session: Session, transaction_uid: str, state: CommitmentState, detail: str) -> None:
        session.execute(
            update(Commitment)
            .where(Commitment.transaction_uid == transaction_uid)
            .values(state=state, settled_at=self.now(), detail=detail)
        )


def _explained(reason: int | None) -> tuple[str, bool, str]:
    if reason is None:
        return MISSED
    return REASONS.get(
        reason, (f"FailureReason 0x{reason:04X}", True, "ask the PACS administrator for its log, then retry")
    )
