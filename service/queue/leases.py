"""Hand out the right to work on one step of one job, and take it back from who gives no sign of life.

A step is claimed by a conditional UPDATE that hands out a lease token, and every later write of the step names the token: a
message delivered twice, two workers, or a worker that was thought dead change nothing. Jobs are taken by priority, within it by
their turn (`service.queue.turns`); on PostgreSQL takers pass over rows that another one holds (`FOR UPDATE SKIP LOCKED`).
"""

import datetime as dt
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Update, and_, bindparam, exists, or_, select, update
from sqlalchemy.orm import Session

from service.errors import CarpusError
from service.ledger import FINAL, JOB
from service.queue.causes import POISON_AFTER, POLICIES
from service.queue.queues import held
from service.queue.reception import Reception
from service.rows import changed, database_table
from service.tables import Job, State, UtcDateTime

UNPARKED_AT_ONCE = 500
# Asked for every film, some of it several times a second: put together once (see `service.rows`).
_NOW: Final = bindparam("now", type_=UtcDateTime())
_FREE: Final = or_(Job.lease_token.is_(None), Job.lease_expires_at < _NOW)
_TURN: Final = (Job.priority, Job.turn, Job.id)
_DUE: Final = and_(Job.parked, Job.not_before <= _NOW)
_ANY_DUE: Final = select(exists().where(_DUE))
_ALL_DUE: Final = select(Job.id).where(_DUE).limit(UNPARKED_AT_ONCE).with_for_update(skip_locked=True)


@cache
def ready(state: State) -> ColumnElement[bool]:
    """Return the condition that a job waits in this state for whoever comes, at the time of the parameter `now`."""
    return and_(Job.state == state, ~Job.parked, _FREE, ~held(state))


@cache
def _next(state: State) -> Select[int]:
    return select(Job.id).where(ready(state)).order_by(*_TURN).limit(1).with_for_update(skip_locked=True)


@cache
def _take_one(state: State) -> Update:
    """Return what takes job `job` out of this state, if it may be taken; a parked one when its time has come."""
    free = and_(Job.state == state, or_(~Job.parked, Job.not_before <= _NOW), _FREE, ~held(state))
    lease: dict[str, Any] = {
        name: bindparam(name) for name in ("lease_token", "lease_owner", "lease_expires_at", "updated_at")
    }
    values = {"attempts": Job.attempts + 1, "parked": False, **lease}
    return update(database_table(Job)).where(Job.id == bindparam("job"), free).values(values)


_UNPREPARED: Final = (
    select(Job.id)
    .where(ready(State.RECEIVED))
    .where(or_(Job.created_at <= bindparam("received_before"), Job.created_at > _NOW))
    .order_by(*_TURN)
    .limit(bindparam("limit"))
)


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
        asked = {"now": self.now(), "received_before": received_before, "limit": limit}
        with self._read() as session:
            return list(session.scalars(_UNPREPARED, asked))

    def claim(self, job_id: int, state: State) -> Claim | None:
        """Take the step that follows `state`; None when the job is elsewhere, taken, held, or its time has not come."""
        with self._write() as session:
            return self._take(session, job_id, state)

    def claim_next(self, state: State) -> Claim | None:
        """Take the step of the waiting job whose turn it is; None when nothing waits."""
        self.unpark()
        with self._write() as session:
            job_id = session.scalar(_next(state), {"now": self.now()})
            return None if job_id is None else self._take(session, job_id, state)

    def heartbeat(self, claim: Claim) -> bool:
        """Extend the lease; False when it was lost."""
        with self._write() as session:
            mine = {"id": claim.job.id, "lease_token": claim.token}
            return changed(session, Job, mine, {"lease_expires_at": self.now() + self.lease}) == 1

    def unpark(self) -> int:
        """Let jobs go on whose time has come; return how many."""
        now = {"now": self.now()}
        with self._read() as session:
            if not session.scalar(_ANY_DUE, now):
                return 0
        with self._write() as session:
            ids = list(session.scalars(_ALL_DUE, now))
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

    def _take(self, session: Session, job_id: int, state: State) -> Claim | None:
        now = self.now()
        token = secrets.token_hex(16)
        lease = {"lease_token": token, "lease_owner": self.process, "lease_expires_at": now + self.lease}
        done = session.connection().execute(_take_one(state), {"job": job_id, "now": now, "updated_at": now, **lease})
        return Claim(session.scalars(JOB, {"id": job_id}).one(), token, now) if done.rowcount == 1 else None

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
