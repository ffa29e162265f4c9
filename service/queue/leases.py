"""Hand out the right to work on one step of one job, and take it back from who gives no sign of life.

A step is claimed by a conditional UPDATE that hands out a lease token, and every later write of the step names the token: a
message delivered twice, two workers, or a worker that was thought dead change nothing. Jobs are taken by priority, within it by
their turn (`service.queue.turns`); on PostgreSQL takers pass over rows that another one holds (`FOR UPDATE SKIP LOCKED`).
"""

import datetime as dt
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, exists, or_, select, update
from sqlalchemy.orm import Session

from service.errors import CarpusError
from service.ledger import FINAL, ROWS_ALONE
from service.queue.causes import POISON_AFTER, POLICIES
from service.queue.queues import held
from service.queue.reception import Reception
from service.tables import Job, State

UNPARKED_AT_ONCE = 500


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


class Leases(Reception):
    """Who works on what."""

    def unprepared(self, received_before: dt.datetime, limit: int) -> list[int]:
        """Return ids of *jobs* in RECEIVED that nobody works on and whose time has come, in the order they are to be taken.

        A film from the future came before the clock was set back; it waits for nothing.
        """
        self.unpark()
        settled = or_(Job.created_at <= received_before, Job.created_at > self.now())
        with self._read() as session:
            query = select(Job.id).where(self._ready(State.RECEIVED), settled)
            return list(session.scalars(query.order_by(Job.priority, Job.turn, Job.id).limit(limit)))

    def claim(self, job_id: int, state: State) -> Claim | None:
        """Take the step that follows `state`; None when the job is elsewhere, taken, held, or its time has not come."""
        with self._write() as session:
            return self._take(session, job_id, state)

    def claim_next(self, state: State) -> Claim | None:
        """Take the step of the waiting job whose turn it is; None when nothing waits."""
        self.unpark()
        query = select(Job.id).where(self._ready(state)).order_by(Job.priority, Job.turn, Job.id).limit(1)
        with self._write() as session:
            job_id = session.scalar(query.with_for_update(skip_locked=True))
            return None if job_id is None else self._take(session, job_id, state)

    def heartbeat(self, claim: Claim) -> bool:
        """Extend the lease; False when it was lost."""
        with self._write() as session:
            mine = and_(Job.id == claim.job.id, Job.lease_token == claim.token)
            longer = update(Job).where(mine).values(lease_expires_at=self.now() + self.lease)
            done = session.execute(longer, execution_options=ROWS_ALONE)
            return bool(done.rowcount == 1)  # type: ignore[attr-defined]  # CursorResult

    def unpark(self) -> int:
        """Let jobs go on whose time has come; return how many."""
        due = and_(Job.parked, Job.not_before <= self.now())
        with self._read() as session:
            if not session.scalar(select(exists().where(due))):
                return 0
        with self._write() as session:
            ids = list(
                session.scalars(select(Job.id).where(due).limit(UNPARKED_AT_ONCE).with_for_update(skip_locked=True))
            )
            session.execute(update(Job).where(Job.id.in_(ids)).values(parked=False))
            return len(ids)

    def wake(self, state: State) -> int:
        """Let every job go on that waits in this state for a later try; return how many."""
        with self._write() as session:
            waiting = and_(Job.state == state, Job.parked)
            done = session.execute(update(Job).where(waiting).values(parked=False, not_before=self.now()))
            return int(done.rowcount)  # type: ignore[attr-defined]  # CursorResult

    def sweep(self) -> Sweep:
        """Release leases that ran out, take out jobs that keep losing their worker, mark what is overdue."""
        now = self.now()
        with self._write() as session:
            released, abandoned = self._release(session, Job.lease_expires_at < now, "gave no sign of life")
            late = and_(Job.deadline.is_not(None), ~Job.overdue, Job.deadline < now, Job.state.not_in(FINAL))
            overdue = list(session.scalars(select(Job.id).where(late).with_for_update(skip_locked=True)))
            for job_id in overdue:
                session.execute(update(Job).where(Job.id == job_id).values(overdue=True))
                self._note(session, job_id, "overdue", "past the deadline of its state")
        return Sweep(tuple(released), tuple(abandoned), tuple(overdue))

    def release(self, owner: str) -> Sweep:
        """Release at once what a worker held that is known to be dead."""
        with self._write() as session:
            released, abandoned = self._release(session, Job.lease_owner == owner, "died")
        return Sweep(tuple(released), tuple(abandoned))

    def _free(self) -> ColumnElement[bool]:
        return or_(Job.lease_token.is_(None), Job.lease_expires_at < self.now())

    def _ready(self, state: State) -> ColumnElement[bool]:
        return and_(Job.state == state, ~Job.parked, self._free(), ~held(state))

    def _take(self, session: Session, job_id: int, state: State) -> Claim | None:
        now = self.now()
        token = secrets.token_hex(16)
        lease = {"lease_token": token, "lease_owner": self.process, "lease_expires_at": now + self.lease}
        ready = and_(Job.state == state, or_(~Job.parked, Job.not_before <= now), self._free(), ~held(state))
        taken = update(Job).where(Job.id == job_id, ready)
        values = {"attempts": Job.attempts + 1, "parked": False, "updated_at": now, **lease}
        done = session.execute(taken.values(**values), execution_options=ROWS_ALONE)
        if done.rowcount != 1:  # type: ignore[attr-defined]  # CursorResult, which the stubs call Result
            return None
        return Claim(session.get_one(Job, job_id), token, now)

    def _release(self, session: Session, which: ColumnElement[bool], what: str) -> tuple[Sequence[int], Sequence[int]]:
        now = self.now()
        released, abandoned = [], []
        leased = select(Job).where(Job.lease_token.is_not(None), which)
        for job in session.scalars(leased.with_for_update(skip_locked=True)):
            owner = job.lease_owner or "an unknown worker"
            job.lease_token = job.lease_owner = job.lease_expires_at = None
            job.updated_at = now
            job.losses += 1
            if job.losses >= POISON_AFTER:
                job.resume_state, job.state, job.state_since, job.deadline = job.state, State.FAILED, now, None
                job.cause_code = "worker-lost"
                job.cause_text = f"{job.losses} workers died while working on this job, the last one {owner}"
                job.next_action = POLICIES["worker-lost"].next_action
                abandoned.append(job.id)
            else:
                job.published_at = None
                released.append(job.id)
            self._note(session, job.id, "lease-lost", f"{owner} {what}; loss {job.losses}")
        return released, abandoned
