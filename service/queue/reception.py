"""Record what was received: an instance becomes a job in the same transaction, a file that cannot be used goes to quarantine."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, select
from sqlalchemy.exc import IntegrityError

from service import tracing
from service.errors import CarpusError
from service.ledger import DEADLINES, Ledger
from service.queue.turns import next_turn
from service.rows import inserted
from service.tables import Instance, Job, JobEvent, Priority, Quarantined, Refusal, State


class DuplicateInstance(CarpusError):
    """An instance with this SOPInstanceUID is kept already."""

    code = "duplicate-instance"

    def __init__(self, instance_id: int, digest: str) -> None:
        """Name the row and the digest of what is kept."""
        super().__init__(f"instance {instance_id} is kept under the same SOPInstanceUID")
        self.instance_id = instance_id
        self.digest = digest


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """What the receiving side knows of one instance, once the file is durable."""

    SOPInstanceUID: str
    SOPClassUID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    TransferSyntaxUID: str
    digest: str
    byte_count: int
    name: str
    calling_ae_title: str
    called_ae_title: str
    address: str
    accession_number: str | None = None


class Reception(Ledger):
    """What the receiving side writes."""

    def record_instance(self, received: ReceivedInstance, *, priority: int = Priority.ROUTINE) -> int:
        """Commit a received instance and its job in state RECEIVED; return the id of the instance.

        Raises
        ------
        DuplicateInstance
            When the SOPInstanceUID is kept already, also when another association won the race for it.
        """
        now = self.now()
        fields = {name: getattr(received, name) for name in ReceivedInstance.__dataclass_fields__}
        job = {
            "priority": int(priority),
            "peer": received.calling_ae_title,
            "state": State.RECEIVED,
            "not_before": now,
            "deadline": now + DEADLINES[State.RECEIVED],
            "created_at": now,
            "updated_at": now,
            "state_since": now,
            "traceparent": tracing.carried(),
        }
        said = {"at": now, "code": "received", "process": self.process}
        said["text"] = f"{received.byte_count} bytes from {received.calling_ae_title}"
        # Three rows for every film of a burst: written as rows, without a session that would look after them as objects.
        try:
            with self._writer.begin() as connection:
                instance_id = inserted(connection, Instance, {**fields, "received_at": now})
                job["turn"] = next_turn(connection, received.calling_ae_title, int(priority))
                job_id = inserted(connection, Job, {**job, "instance_id": instance_id})
                inserted(connection, JobEvent, {**said, "job_id": job_id})
            tracing.annotate({"job": job_id})
            return instance_id
        except IntegrityError:
            found = self.find_instance(received.SOPInstanceUID)
            if found is None:
                raise
            raise DuplicateInstance(*found) from None

    def find_instance(self, sop_instance_uid: str) -> tuple[int, str] | None:
        """Return (instance id, digest) of what is kept under this SOPInstanceUID."""
        query = select(Instance.id, Instance.digest).where(Instance.SOPInstanceUID == sop_instance_uid)
        with self.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else (row[0], row[1])

    def known_names(self, names: Sequence[str]) -> set[str]:
        """Return which of these files of the identified store have a row."""
        with self._read() as session:
            return {
                name
                for start in range(0, len(names), 500)
                for name in session.scalars(select(Instance.name).where(Instance.name.in_(names[start : start + 500])))
            }

    def count_refusals(self, code: str, text: str, next_action: str, count: int) -> None:
        """Add refused instances to the count of their cause."""
        now = self.now()
        with self._write() as session:
            row = session.get(Refusal, code, with_for_update=True)
            if row is None:
                row = Refusal(code=code, count=0, first_at=now)
                session.add(row)
            row.count += count
            row.text, row.next_action, row.last_at = text, next_action, now

    def record_quarantine(
        self,
        *,
        code: str,
        text: str,
        name: str,
        sha256: str,
        SOPInstanceUID: str | None,
        calling_ae_title: str,
        address: str,
        instance_id: int | None = None,
    ) -> int:
        """Record a file of the quarantine store with its cause; the same bytes for the same cause are counted, not repeated."""
        now = self.now()
        with self._write() as session:
            same = and_(Quarantined.cause_code == code, Quarantined.sha256 == sha256)
            row = session.scalars(select(Quarantined).where(same)).one_or_none()
            if row is None:
                row = Quarantined(
                    first_at=now,
                    count=0,
                    name=name,
                    cause_code=code,
                    cause_text=text,
                    SOPInstanceUID=SOPInstanceUID,
                    sha256=sha256,
                    instance_id=instance_id,
                    calling_ae_title=calling_ae_title,
                    address=address,
                )
                session.add(row)
            row.count += 1
            row.last_at = now
            session.flush()
            return row.id
