"""Record what was made for each destination, what the destination said, and in which order a patient's results leave."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, delete, exists, select, update

from service.queue.leases import Claim
from service.queue.outbox import Outbox
from service.tables import Job, ResultObject, ResultState, State

TO_SEND = (ResultState.BUILT, ResultState.MISSING)
SENT = (ResultState.ACCEPTED, ResultState.CONFIRMED)


class Sendings(Outbox):
    """The objects of each job at each destination."""

    def record_results(self, claim: Claim, destination: str, built: Sequence[Mapping[str, Any]]) -> None:
        """Record the objects built for one destination of the claimed delivery; a repeat replaces rows, never adds any.

        Each mapping holds destination, kind, SOPClassUID, SOPInstanceUID, SeriesInstanceUID, name and sha256. What the
        destination has accepted stays accepted.
        """
        now = self.now()
        with self._write() as session:
            rows = session.scalars(self._results(claim.job.id).where(ResultObject.destination == destination))
            known = {(row.destination, row.kind): row for row in rows}
            for fields in built:
                row = known.pop((fields["destination"], fields["kind"]), None)
                if row is None:
                    session.add(ResultObject(job_id=claim.job.id, state=ResultState.BUILT, updated_at=now, **fields))
                elif row.SOPInstanceUID != fields["SOPInstanceUID"]:
                    for key, value in fields.items():
                        setattr(row, key, value)
                    row.state, row.status_code, row.updated_at = ResultState.BUILT, None, now
                    row.checks = row.resends = 0
                    row.confirm_after = row.transaction_uid = row.failure_reason = None
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

    def earlier_unsent(self, job: Job, destination: str) -> int | None:
        """Return the earlier job of the same patient whose results this destination has not got yet, or None.

        A job that waits for a person (FAILED) holds up nobody.
        """
        if job.subject is None:
            return None
        here = ResultObject.job_id == Job.id, ResultObject.destination == destination
        complete = exists().where(*here) & ~exists().where(*here, ResultObject.state.not_in(SENT))
        earlier = and_(Job.subject == job.subject, Job.id < job.id, Job.state == State.INFERRED)
        with self._read() as session:
            return session.scalar(select(Job.id).where(earlier, ~complete).order_by(Job.id).limit(1))
