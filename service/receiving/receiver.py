"""Keep what a C-STORE request brings, and answer with its status (PS3.4 B.2.3).

Success is answered only for what is on disk and in the database. What cannot be used goes to quarantine with its cause; what was
sent twice is stored once.
"""

import hashlib
import time
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from sqlalchemy.exc import SQLAlchemyError

from service import tracing
from service.conformance import FAILURE, OTHER_BYTES, OUT_OF_RESOURCES, STORED, Status
from service.errors import Retryable
from service.log import get_logger, whereabouts
from service.queue.jobs import DuplicateInstance, Jobs, ReceivedInstance
from service.receiving.header import Header, Unusable, inspect
from service.receiving.pressure import Pressure
from service.settings import Settings
from service.storage import DiskFull, Stores
from service.tables import Priority

PREAMBLE: Final = b"\0" * 128 + b"DICM"
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

    def store(self, event: Any) -> Dataset:
        """Answer one C-STORE request with its status; the handler of pynetdicom's EVT_C_STORE."""
        started = time.monotonic()
        request, association = event.request, event.assoc
        peer = f"{association.requestor.ae_title}@{association.requestor.address}"
        data: memoryview = request.DataSet.getbuffer()
        fields = {"peer": peer, "bytes": len(data)}
        told = {"calling_ae_title": association.requestor.ae_title, "bytes": len(data)}
        try:
            with tracing.span("receive", kind="SERVER", attributes=told):
                instance_id, repeated = self._keep(event, data)
                tracing.annotate({"instance": instance_id, "repeated": repeated})
        except (SQLAlchemyError, Retryable) as error:
            self.pressure.refused(error)
            # The text of a database error would repeat the row: UIDs, the accession number.
            cause = _short(error)
            log.error("instance refused for now", status=f"0x{OUT_OF_RESOURCES.code:04X}", cause=cause, **fields)
            return _response(OUT_OF_RESOURCES, _short(error))
        except Unusable as error:
            status = self._quarantine(event, data, error.status, error.code, str(error))
            log.warning("instance unusable", status=f"0x{status.code:04X}", code=error.code, cause=str(error), **fields)
            return _response(status, str(error))
        except Exception as error:  # noqa: BLE001  # the one broad catch of this process: the peer gets an answer
            log.error("instance failed", status=f"0x{FAILURE.code:04X}", **whereabouts(error), **fields)
            return _response(FAILURE, type(error).__name__)
        seconds = round(time.monotonic() - started, 4)
        log.info(
            "instance repeated" if repeated else "instance stored", instance=instance_id, seconds=seconds, **fields
        )
        return _response(STORED)

    def _keep(self, event: Any, data: memoryview) -> tuple[int, bool]:
        """Return the row of the instance and whether it was there already."""
        self.pressure.check()
        request = event.request
        transfer_syntax = UID(event.context.transfer_syntax)
        header = inspect(
            data,
            transfer_syntax,
            sop_class=str(request.AffectedSOPClassUID),
            sop_instance=str(request.AffectedSOPInstanceUID),
            maximum_pixels=self.limits.maximum_pixels,
            maximum_bytes=self.limits.maximum_instance_bytes,
        )
        sha256 = hashlib.sha256(data).hexdigest()
        known = self.jobs.find_instance(header.SOPInstanceUID)
        if known is not None:
            return self._same(known[0], known[1], sha256), True
        pieces: list[bytes | memoryview] = [PREAMBLE, _file_meta(event, transfer_syntax), data]
        stored = self.stores.identified.write(pieces, hashed=False)  # that of the data set is recorded
        try:
            received = ReceivedInstance(
                SOPInstanceUID=header.SOPInstanceUID,
                SOPClassUID=header.SOPClassUID,
                StudyInstanceUID=header.StudyInstanceUID,
                SeriesInstanceUID=header.SeriesInstanceUID,
                TransferSyntaxUID=str(transfer_syntax),
                sha256=sha256,
                byte_count=stored.byte_count,
                name=stored.name,
                calling_ae_title=event.assoc.requestor.ae_title,
                called_ae_title=event.assoc.requestor.primitive.called_ae_title,
                address=event.assoc.requestor.address,
                accession_number=header.AccessionNumber or None,
            )
            started = time.monotonic()
            instance_id = self.jobs.record_instance(received, priority=self._priority(received, header))
            self.pressure.committed(time.monotonic() - started)
            return instance_id, False
        except DuplicateInstance as other:  # another association was faster with the same instance
            self.stores.identified.remove(stored.name)
            return self._same(other.instance_id, other.sha256, sha256), True
        except SQLAlchemyError:
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

    def _same(self, instance_id: int, kept_sha256: str, sha256: str) -> int:
        if kept_sha256 != sha256:
            text = f"instance {instance_id} is kept with SHA-256 {kept_sha256}; this data set has {sha256}"
            raise Unusable(OTHER_BYTES, "same-uid-other-bytes", text)
        return instance_id

    def _quarantine(self, event: Any, data: memoryview, status: Status, code: str, text: str) -> Status:
        """Keep an unusable data set with its cause; the same bytes are kept once."""
        if status.kept != "quarantine":
            return status
        request, requestor = event.request, event.assoc.requestor
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            self.stores.identified.check_free()
            meta = _file_meta(event, UID(event.context.transfer_syntax))
            stored = self.stores.quarantine.write([PREAMBLE, meta, data], name=sha256)
            self.jobs.record_quarantine(
                code=code,
                text=text,
                name=stored.name,
                sha256=sha256,
                SOPInstanceUID=str(request.AffectedSOPInstanceUID),
                calling_ae_title=requestor.ae_title,
                address=requestor.address,
            )
        except (DiskFull, SQLAlchemyError) as error:
            log.error("quarantine failed", cause=_short(error), code=code)
            return OUT_OF_RESOURCES
        return status


def _file_meta(event: Any, transfer_syntax: UID) -> bytes:
    """Encode the file meta information of a received instance (PS3.10 7.1)."""
    request = event.request
    meta = create_file_meta(
        sop_class_uid=request.AffectedSOPClassUID,
        sop_instance_uid=request.AffectedSOPInstanceUID,
        transfer_syntax=transfer_syntax,
    )
    meta.SourceApplicationEntityTitle = event.assoc.requestor.ae_title
    return encode_file_meta(meta)


def _response(status: Status, comment: str = "") -> Dataset:
    """Make the status of a C-STORE response (PS3.7 9.1.1.1.9, C); ErrorComment holds 64 characters."""
    response = Dataset()
    response.Status = status.code
    if comment:
        response.ErrorComment = comment.encode("ascii", "replace").decode("ascii").replace("\\", "/")[:64]
    return response


def _short(error: Exception) -> str:
    if not isinstance(error, SQLAlchemyError):
        return str(error)
    origin = getattr(error, "orig", None)
    return type(error).__name__ + (f" ({type(origin).__name__})" if origin is not None else "")
