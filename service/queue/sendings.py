"""Record what was made for each destination, what the destination said, and in which order a patient's results leave."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, exists, select

from service.queue.leases import Claim
from service.queue.outbox import Outbox
from service.rows import appended, changed
from service.tables import Job, ResultObject, ResultState, State

TO_SEND = (ResultState.BUILT, ResultState.MISSING)
SENT = (ResultState.ACCEPTED, ResultState.CONFIRMED)
# Asked for every delivery: put together once.
_AT: Final = select(ResultObject).where(
    ResultObject.job_id == bindparam("job_id"), ResultObject.destination == bindparam("destination")
)
_HERE: Final = ResultObject.job_id == Job.id, ResultObject.destination == bindparam("destination")
_COMPLETE: Final = exists().where(*_HERE) & ~exists().where(*_HERE, ResultObject.state.not_in(SENT))
_EARLIER: Final = Job.subject == bindparam("subject"), Job.id < bindparam("id"), Job.state == State.INFERRED
_EARLIER_UNSENT: Final = select(Job.id).where(*_EARLIER, ~_COMPLETE).order_by(Job.id).limit(1)


class Sendings(Outbox):
    """The objects of each job at each destination."""

    def record_results(self, claim: Claim, destination: str, built: Sequence[Mapping[str, Any]]) -> None:
        """Record the objects built for one destination of the claimed delivery; a repeat replaces rows, never adds any.

        Each mapping holds destination, kind, SOPClassUID, SOPInstanceUID, SeriesInstanceUID, name and sha256. What the
        destination has accepted stays accepted.
        """
        now = self.now()
        with self._write() as session:
            rows = session.scalars(_AT, {"job_id": claim.job.id, "destination": destination})
            known = {(row.destination, row.kind): row for row in rows}
            fresh: list[Mapping[str, Any]] = []
            for fields in built:
                row = known.pop((fields["destination"], fields["kind"]), None)
                if row is None:
                    entry = {"job_id": claim.job.id, "state": ResultState.BUILT, "updated_at": now}
                    fresh.append({**fields, **entry})
                elif row.SOPInstanceUID != fields["SOPInstanceUID"]:
                    for key, value in fields.items():
                        setattr(row, key, value)
                    row.state, row.status_code, row.updated_at = ResultState.BUILT, None, now
                    row.checks = row.resends = 0
                    row.confirm_after = row.transaction_uid = row.failure_reason = None
            gone = [row.id for row in known.values() if row.state in (ResultState.BUILT, ResultState.REFUSED)]
            if gone:
                session.execute(delete(ResultObject).where(ResultObject.id.in_(gone)))
            appended(session, ResultObject, fresh)

    def record_status(
        self, job_id: int, destination: str, sop_instance_uid: str, state: ResultState, status_code: int | None = None
    ) -> None:
        """Record what a destination said about one object."""
        with self._write() as session:
            which = {"job_id": job_id, "destination": destination, "SOPInstanceUID": sop_instance_uid}
            values: dict[str, Any] = {"state": state, "updated_at": self.now()}
            if status_code is not None:
                values["status_code"] = status_code
            changed(session, ResultObject, which, values)

    def earlier_unsent(self, job: Job, destination: str) -> int | None:
        """Return the earlier job of the same patient whose results this destination has not got yet, or None.

        A job that waits for a person (FAILED) holds up nobody.
        """
        if job.subject is None:
            return None
        asked = {"subject": job.subject, "id": job.id, "destination": destination}
        with self._read() as session:
            return session.scalar(_EARLIER_UNSENT, asked)
