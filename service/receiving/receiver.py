"""Keep what a C-STORE request brings, and answer with its status (PS3.4 B.2.3).

Success is answered only for what is on disk and in the database. What cannot be used goes to quarantine with its cause; what was
sent twice is stored once.
"""

import hashlib
import time
from contextlib import suppress
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from service import tracing
from service.conformance import FAILURE, OTHER_BYTES, OUT_OF_RESOURCES, STORED, Status
from service.errors import Retryable
from service.log import get_logger, whereabouts
from service.queue.jobs import DuplicateInstance, Jobs, ReceivedInstance
from service.receiving.digests import digest
from service.receiving.header import Header, Unusable, inspect
from service.receiving.incoming import Arrival
from service.receiving.pressure import Pressure
from service.settings import Settings
from service.storage import DiskFull, Stores
from service.tables import Priority

# The defined terms of RequestedProcedurePriority (PS3.4 K.6.1.2.2, PS3.3 C.4.11).
PRIORITIES: Final = {
    "STAT": Priority.STAT,
    "HIGH": Priority.STAT,
    "ROUTINE": Priority.ROUTINE,
    "MEDIUM": Priority.ROUTINE,
    "LOW": Priority.BACKFILL,
}
SETTLED_SECONDS: Final = 60.0  # by then the database has made or undone what a broken connection left

log = get_logger()


class Receiver:
    """Keep what C-STORE brings: check, write, record, answer.

    Parameters
    ----------
    settings
        Limits.
    stores
        Where instances and quarantined data sets go.
    jobs
        The system of record.
    """

    def __init__(self, settings: Settings, stores: Stores, jobs: Jobs) -> None:
        self.limits = settings.limits
        self._doubtful: dict[str, float] = {}  # files whose row may or may not have been written, and since when
        self.stores = stores
        self.jobs = jobs
        self.pressure = Pressure(settings.limits, stores.identified, jobs)
        self._priorities = {peer.ae_title: peer.priority for peer in settings.peers if peer.priority}

    def rehearse(self) -> None:
        """Ask and write once what every film asks and writes, so that the first film does not wait for that to be put together."""
        with suppress(Retryable, SQLAlchemyError):
            self.pressure.check()
        with suppress(SQLAlchemyError):
            self.jobs.rehearse()

    def keep(self, arrival: Arrival) -> tuple[Status, str]:
        """Keep one instance; return the status of the response and its comment."""
        started = time.monotonic()
        count = len(arrival.data)
        fields = {"peer": f"{arrival.calling_ae_title}@{arrival.address}", "bytes": count}
        try:
            told = {"calling_ae_title": arrival.calling_ae_title}
            with tracing.span("receive", kind="SERVER", attributes={**told, "bytes": count}):
                instance_id, repeated = self._kept(arrival)
                tracing.annotate({"instance": instance_id, "repeated": repeated})
        except (SQLAlchemyError, Retryable) as error:
            self.pressure.refused(error)
            # The text of a database error would repeat the row: UIDs, the accession number.
            cause = _short(error)
            log.error("instance refused for now", status=f"0x{OUT_OF_RESOURCES.code:04X}", cause=cause, **fields)
            return OUT_OF_RESOURCES, cause
        except Unusable as error:
            status = self._quarantine(arrival, error.status, error.code, str(error))
            log.warning("instance unusable", status=f"0x{status.code:04X}", code=error.code, cause=str(error), **fields)
            return status, str(error)
        except Exception as error:  # noqa: BLE001  # the one broad catch of this process: the peer gets an answer
            log.error("instance failed", status=f"0x{FAILURE.code:04X}", **whereabouts(error), **fields)
            return FAILURE, type(error).__name__
        seconds = round(time.monotonic() - started, 4)
        log.info(
            "instance repeated" if repeated else "instance stored", instance=instance_id, seconds=seconds, **fields
        )
        return STORED, ""

    def _kept(self, arrival: Arrival) -> tuple[int, bool]:
        """Return the row of the instance and whether it was there already."""
        self.pressure.check()
        header = inspect(
            arrival.data,
            arrival.transfer_syntax,
            sop_class=arrival.SOPClassUID,
            sop_instance=arrival.SOPInstanceUID,
            maximum_pixels=self.limits.maximum_pixels,
            maximum_bytes=self.limits.maximum_instance_bytes,
        )
        stored = self.stores.identified.write(arrival.file, hashed=False)  # that of the data set is recorded
        try:
            received = ReceivedInstance(
                SOPInstanceUID=header.SOPInstanceUID,
                SOPClassUID=header.SOPClassUID,
                StudyInstanceUID=header.StudyInstanceUID,
                SeriesInstanceUID=header.SeriesInstanceUID,
                TransferSyntaxUID=str(arrival.transfer_syntax),
                digest=arrival.digest,
                byte_count=stored.byte_count,
                name=stored.name,
                calling_ae_title=arrival.calling_ae_title,
                called_ae_title=arrival.called_ae_title,
                address=arrival.address,
                accession_number=header.AccessionNumber or None,
            )
            started = time.monotonic()
            instance_id = self.jobs.record_instance(received, priority=self._priority(received, header))
            self.pressure.committed(time.monotonic() - started)
            return instance_id, False
        except (
            DuplicateInstance
        ) as other:  # only the row decides; to ask before would cost every film what few are spared
            self.stores.identified.remove(stored.name)
            return self._same(other, arrival), True
        except (SQLAlchemyError, Retryable):
            self._withdraw(stored.name)
            raise

    def _priority(self, received: ReceivedInstance, header: Header) -> Priority:
        """Return who is served first: what is set for the peer, else what the header says.

        The Priority of the C-STORE request (PS3.7 9.1.1.1.7) is not asked: common senders put LOW there for everything.
        """
        said = self._priorities.get(received.calling_ae_title)
        return Priority[said.upper()] if said else PRIORITIES.get(header.RequestedProcedurePriority, Priority.ROUTINE)

    def _withdraw(self, name: str) -> None:
        """Remove a file whose row was not written, now or, where the database cannot say so, once it has had time to."""
        try:
            recorded = bool(self.jobs.known_names([name]))
        except SQLAlchemyError:
            self._doubtful[name] = time.monotonic()
            return
        if not recorded:
            self.stores.identified.remove(name)

    def settle(self, *, older_than_seconds: float = SETTLED_SECONDS) -> int:
        """Remove files of refused instances that still have no row; return how many. What is younger is left alone.

        A commit whose connection broke may yet have been made: its file is judged only when the database must have ended it.
        """
        before = time.monotonic() - older_than_seconds
        due = [name for name, at in list(self._doubtful.items()) if at <= before]
        if not due:
            return 0
        orphans = set(due) - self.jobs.known_names(due)
        for name in due:
            if name in orphans:
                self.stores.identified.remove(name)
            self._doubtful.pop(name, None)
        if orphans:
            log.warning("files of refused instances removed", count=len(orphans))
        return len(orphans)

    def _same(self, kept: DuplicateInstance, arrival: Arrival) -> int:
        found = digest(arrival.data, like=kept.digest)
        if kept.digest != found:
            # By the number that the pages and `carpus jobs show` know a film by: that of its newest job.
            film = next((f"film #{job.id}" for job in self.jobs.find(arrival.SOPInstanceUID)), "a film removed since")
            text = f"{film} is kept with {kept.digest}; this data set has {found}"
            raise Unusable(OTHER_BYTES, "same-uid-other-bytes", text)
        return kept.instance_id

    def _quarantine(self, arrival: Arrival, status: Status, code: str, text: str) -> Status:
        """Keep an unusable data set with its cause; the same bytes are kept once."""
        if status.kept != "quarantine":
            return status
        sha256 = hashlib.sha256(arrival.data).hexdigest()
        try:
            self.stores.identified.check_free()
            stored = self.stores.quarantine.write(arrival.file, name=sha256)
            self.jobs.record_quarantine(
                code=code,
                text=text,
                name=stored.name,
                sha256=sha256,
                SOPInstanceUID=arrival.SOPInstanceUID,
                calling_ae_title=arrival.calling_ae_title,
                address=arrival.address,
            )
        except (DiskFull, SQLAlchemyError) as error:
            log.error("quarantine failed", cause=_short(error), code=code)
            return OUT_OF_RESOURCES
        return status


def _short(error: Exception) -> str:
    if not isinstance(error, SQLAlchemyError):
        return str(error)
    origin = getattr(error, "orig", None)
    return type(error).__name__ + (f" ({type(origin).__name__})" if origin is not None else "")
