"""Record what was received: an instance becomes a job in the same transaction, a file that cannot be used goes to quarantine."""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import Connection, and_, select
from sqlalchemy.exc import IntegrityError

from service import tracing
from service.errors import CarpusError
from service.ledger import DEADLINES, Ledger
from service.queue.together import Together
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


@dataclass(frozen=True, slots=True)
class _Film:
    """A film that waits to be written, and what its thread knows of it."""

    received: ReceivedInstance
    priority: int
    at: dt.datetime
    traceparent: str | None


class Reception(Ledger):
    """What the receiving side writes."""

    def record_instance(self, received: ReceivedInstance, *, priority: int = Priority.ROUTINE) -> int:
        """Commit a received instance and its job in state RECEIVED; return the id of the instance.

        Raises
        ------
        DuplicateInstance
            When the SOPInstanceUID is kept already, also when another association won the race for it.
        """
        film = _Film(received, int(priority), self.now(), tracing.carried())
        try:
            instance_id, job_id = self._together(film)
        except IntegrityError:
            found = self.find_instance(received.SOPInstanceUID)
            if found is None:
                raise
            raise DuplicateInstance(*found) from None
        tracing.annotate({"job": job_id})
        return instance_id

    @cached_property
    def _together(self) -> Together["_Film", tuple[int, int]]:
        return Together(self._record, alone=IntegrityError)

    def _record(self, films: Callable[[], Sequence["_Film"]]) -> list[tuple[int, int]]:
        """Write the rows of films that came in at the same time; return (instance id, job id) of each."""
        with self._writer.begin() as connection:
            return [self._rows(connection, film) for film in films()]

    def _rows(self, connection: Connection, film: "_Film") -> tuple[int, int]:
        # Three rows for every film of a burst: written as rows, without a session that would look after them as objects.
        received, now = film.received, film.at
        fields = {name: getattr(received, name) for name in ReceivedInstance.__dataclass_fields__}
        instance_id = inserted(connection, Instance, {**fields, "received_at": now})
        job = {
            "instance_id": instance_id,
            "priority": film.priority,
            "peer": received.calling_ae_title,
            "turn": next_turn(connection, received.calling_ae_title, film.priority),
            "state": State.RECEIVED,
            "not_before": now,
            "deadline": now + DEADLINES[State.RECEIVED],
            "created_at": now,
            "updated_at": now,
            "state_since": now,
            "traceparent": film.traceparent,
        }
        job_id = inserted(connection, Job, job)
        said = {"at": now, "code": "received", "process": self.process}
        said["text"] = f"{received.byte_count} bytes from {received.calling_ae_title}"
        inserted(connection, JobEvent, {**said, "job_id": job_id})
        return instance_id, job_id

    def rehearse(self) -> None:
        """Write the rows of a film and take them back, so that the first film does not wait for statements to be put together."""
        texts = dict.fromkeys(ReceivedInstance.__dataclass_fields__, "rehearsal")
        received = ReceivedInstance(**{**texts, "byte_count": 0})  # type: ignore[arg-type]  # the rest is text
        with self._writer.connect() as connection, connection.begin() as transaction:
            self._rows(connection, _Film(received, int(Priority.ROUTINE), self.now(), None))
            transaction.rollback()

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
        """Record a file of the quarantine store with its cause; the same bytes for the same cause are counted, not repeated.

        Without `instance_id` it belongs to the film that is kept under its SOPInstanceUID, if any: what holds the film holds it.
        """
        now = self.now()
        with self._write() as session:
            if instance_id is None and SOPInstanceUID is not None:
                instance_id = session.scalar(select(Instance.id).where(Instance.SOPInstanceUID == SOPInstanceUID))
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
