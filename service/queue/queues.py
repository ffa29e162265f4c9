"""Hold the work of one queue, or let it run dry, on a person's word: pause, drain, resume.

Three queues, each the work that takes a job out of one state. A paused queue begins nothing; what has begun is finished. A
draining queue gets nothing new while what waits in it is finished: the queue before it is held, and for the first one new
instances are refused for now (0xA700), so that the peers keep them.
"""

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, and_, exists, false, func, or_, select

from service.errors import Permanent
from service.ledger import Ledger
from service.tables import Heartbeat, Job, QueueControl, QueueMode, State

INTAKE: Final = "intake"
INFERENCE: Final = "inference"
DELIVERY: Final = "delivery"
QUEUES: Final[Mapping[str, State]] = {INTAKE: State.RECEIVED, INFERENCE: State.PREPARED, DELIVERY: State.INFERRED}
_NAMES: Final = {state: name for name, state in QUEUES.items()}


class UnknownQueue(Permanent):
    """There is no queue of this name."""

    code = "unknown-queue"


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue as it is now."""

    name: str
    mode: QueueMode
    waiting: int
    under_way: int
    since: dt.datetime | None
    changed_by: str
    reason: str

    @property
    def empty(self) -> bool:
        """Whether nothing waits in it and nothing is worked on."""
        return not self.waiting and not self.under_way


def held(state: State) -> ColumnElement[bool]:
    """Return the condition that the step out of this state may not begin: its queue is paused, or the next one is drained."""
    own = _NAMES.get(state)
    if own is None:
        return false()
    names = list(QUEUES)
    conditions = [and_(QueueControl.queue == own, QueueControl.mode == QueueMode.PAUSED)]
    if own != names[-1]:
        following = names[names.index(own) + 1]
        conditions.append(and_(QueueControl.queue == following, QueueControl.mode == QueueMode.DRAINING))
    return exists().where(or_(*conditions))


def refusing(processes: Sequence[Heartbeat], now: dt.datetime, *, within_seconds: float = 30) -> list[dict[str, str]]:
    """Return what the receivers said at their last sign of life that they refuse for now, each cause once."""
    found: dict[str, dict[str, str]] = {}
    for beat in processes:
        if (now - beat.at).total_seconds() <= within_seconds:
            for each in (beat.detail or {}).get("refusing", []):
                found.setdefault(each["code"], each)
    return list(found.values())


class Queues(Ledger):
    """Read and set what was asked of each queue."""

    def all(self) -> list[Queue]:
        """Return every queue, in the order a film passes through them."""
        with self._read() as session:
            rows = {row.queue: row for row in session.scalars(select(QueueControl))}
            leased = Job.lease_token.is_not(None), Job.lease_expires_at >= self.now()
            busy_in = Counter(session.scalars(select(Job.state).where(*leased)))
            found = []
            for name, state in QUEUES.items():
                row = rows.get(name)
                total = session.scalar(select(func.count()).select_from(Job).where(Job.state == state)) or 0
                busy = busy_in[state]
                mode = QueueMode(row.mode) if row else QueueMode.RUNNING
                why = (row.since, row.changed_by, row.reason) if row else (None, "", "")
                found.append(Queue(name, mode, total - busy, busy, *why))
            return found

    def held(self) -> Sequence[QueueControl]:
        """Return what a person holds, in the order a film passes through the queues."""
        with self._read() as session:
            return sorted(session.scalars(select(QueueControl)), key=lambda row: list(QUEUES).index(row.queue))

    def mode(self, name: str) -> QueueMode:
        """Return what was asked of one queue."""
        with self._read() as session:
            row = session.get(QueueControl, _known(name))
            return QueueMode(row.mode) if row else QueueMode.RUNNING

    def set(self, name: str, mode: QueueMode, *, by: str, reason: str = "") -> None:
        """Pause, drain or resume one queue.

        Raises
        ------
        UnknownQueue
            When there is none of this name.
        """
        with self._write() as session:
            row = session.get(QueueControl, _known(name))
            if mode == QueueMode.RUNNING:
                if row is not None:
                    session.delete(row)
                return
            fields = {"mode": mode, "since": self.now(), "changed_by": by, "reason": reason}
            session.merge(QueueControl(queue=name, **fields))


def _known(name: str) -> str:
    if name not in QUEUES:
        raise UnknownQueue(f"there is no queue {name!r}: {', '.join(QUEUES)}")
    return name
