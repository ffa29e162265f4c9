"""Record what other systems ask us to commit to (Storage Commitment as provider, PS3.4 J), until they have been answered.

The answer is what the database and the store say at that moment. Carpus is no archive: it keeps a film until its retention ends,
which the conformance statement says; a sender must not delete its own copy on our word alone.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import and_, select, update

from service.ledger import Ledger
from service.tables import Commitment, CommitmentState, Instance

CLAIM: Final = dt.timedelta(minutes=2)  # how long whoever took a request to answer it may work before another one does
ANSWER_AFTER: Final = dt.timedelta(seconds=0.25)  # the report may not overtake the response to the request
NO_SUCH_INSTANCE: Final = 0x0112  # FailureReason, PS3.3 C.14.1.1
CLASS_CONFLICT: Final = 0x0119


class Safekeeping(Ledger):
    """What was asked of us, and how it was answered."""

    def asked_by(self, transaction_uid: str, peer: str, address: str, references: Sequence[tuple[str, str]]) -> None:
        """Record that a peer asks us to commit to instances, given as (SOPClassUID, SOPInstanceUID); a repeat is one request."""
        now = self.now()
        with self._write() as session:
            same = and_(Commitment.transaction_uid == transaction_uid, Commitment.peer == peer)
            if session.scalar(select(Commitment.id).where(same)) is not None:
                session.execute(
                    update(Commitment).where(same).values(state=CommitmentState.ASKED, due_at=now + ANSWER_AFTER)
                )
                return
            session.add(
                Commitment(
                    transaction_uid=transaction_uid,
                    role="provider",
                    peer=peer,
                    address=address,
                    state=CommitmentState.ASKED,
                    created_at=now,
                    due_at=now + ANSWER_AFTER,
                    objects=len(references),
                    asked_for=[{"class": sop_class, "instance": instance} for sop_class, instance in references],
                )
            )

    def unanswered(
        self, limit: int = 20, *, able: Callable[[Commitment], bool] = lambda _asked: True
    ) -> list[Commitment]:
        """Return requests of others whose report is due and that we are able to answer, oldest first; each is ours for a while."""
        now = self.now()
        due = and_(Commitment.role == "provider", Commitment.state == CommitmentState.ASKED, Commitment.due_at <= now)
        with self._read() as session:  # most of the time there is nothing: no lock for that
            if session.scalar(select(Commitment.id).where(due).limit(1)) is None:
                return []
        with self._write() as session:
            query = select(Commitment).where(due).order_by(Commitment.id).limit(limit)
            rows = [row for row in session.scalars(query.with_for_update(skip_locked=True)) if able(row)]
            for row in rows:
                row.attempts += 1
                row.due_at = now + CLAIM
        return rows

    def kept(self, references: Sequence[Mapping[str, str]]) -> tuple[list[Instance], list[tuple[str, str, int]]]:
        """Sort what a peer asks about into what has a row and (class, instance, FailureReason) of what has none."""
        present, failed = [], []
        with self._read() as session:
            for reference in references:
                row = session.scalars(
                    select(Instance).where(Instance.SOPInstanceUID == reference["instance"])
                ).one_or_none()
                if row is None:
                    failed.append((reference["class"], reference["instance"], NO_SUCH_INSTANCE))
                elif row.SOPClassUID != reference["class"]:
                    failed.append((reference["class"], reference["instance"], CLASS_CONFLICT))
                else:
                    present.append(row)
        return present, failed

    def answered(self, commitment_id: int, detail: str, *, again_at: dt.datetime | None = None) -> None:
        """Record how a report to a peer ended; with `again_at` it is tried once more then."""
        values: dict[str, Any] = {"detail": detail}
        if again_at is None:
            values |= {"state": CommitmentState.REPORTED, "settled_at": self.now()}
        else:
            values |= {"due_at": again_at}
        with self._write() as session:
            session.execute(update(Commitment).where(Commitment.id == commitment_id).values(**values))

    def give_up(self, commitment_id: int, detail: str) -> None:
        """Stop trying to report to a peer."""
        values = {"state": CommitmentState.REFUSED, "settled_at": self.now(), "detail": detail}
        with self._write() as session:
            session.execute(update(Commitment).where(Commitment.id == commitment_id).values(**values))
