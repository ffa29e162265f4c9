"""Stand in for a PACS where there is none: a storage SCP that keeps what it is sent, for the demo and the tests.

It takes every kind of object that Carpus returns and every kind of film, from anyone who calls it by its name, keeps files by
study, answers C-ECHO, commits to what it keeps (the report comes on the association of the request) and answers C-FIND at the
level of instances. It is no archive: nothing can be retrieved.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dsutils import encode_file_meta

from service.conformance import (
    CALLED_UNKNOWN,
    CANNOT_PARSE,
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    Rejection,
)
from service.errors import CarpusError
from service.receiving.header import Unusable, inspect
from service.receiving.listener import Listener
from service.receiving.places import Caller
from service.sending import commitment, query
from service.settings import Limits

RESULT_CLASSES: Final[tuple[UID, ...]] = (
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    SegmentationStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
)
UNCOMPRESSED: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
NO_SUCH_INSTANCE: Final = 0x0112  # FailureReason, PS3.3 C.14.1.1
_NOT_OF_A_UID = re.compile(r"[^0-9.]")


class StandInPacs(AbstractContextManager["StandInPacs"]):
    """A storage SCP that keeps files under `folder`, one folder a study.

    Parameters
    ----------
    folder
        Where the files go: `<StudyInstanceUID>/<SOPInstanceUID>.dcm`.
    ae_title
        Its AE title; a caller that names another one is rejected.
    port
        Port on `host`; 0 takes any free one (then see `port`).
    commits, answers_queries
        Whether Storage Commitment and C-FIND are offered.
    takes_films
        Whether it takes more than what Carpus returns.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "PACS",
        host: str = "127.0.0.1",
        port: int = 0,
        commits: bool = True,
        answers_queries: bool = True,
        takes_films: bool = True,
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self._limits = Limits(minimum_free_disk_bytes=0)
        self._stored = threading.Condition()
        folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=ae_title)
        ae.add_supported_context(VERIFICATION)
        for sop_class in (*RESULT_CLASSES, *(STORAGE_CLASSES if takes_films else ())):
            ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        if commits:
            ae.add_supported_context(commitment.PUSH_MODEL, list(UNCOMPRESSED))
        if answers_queries:
            ae.add_supported_context(query.STUDY_ROOT_FIND, list(UNCOMPRESSED))
        self._asked: dict[Any, Dataset] = {}  # by association: what it is to be reported on
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._commit),
            *commitment.after_response("N_ACTION_RSP", self._answered),
            (evt.EVT_C_FIND, self._find),
        ]
        self._listener = Listener(ae, host, port, limits=self._limits, admit=self._admit, handlers=handlers)
        self.port = self._listener.port

    def start(self) -> None:
        """Accept associations from now on."""
        self._listener.start()

    def stop(self) -> None:
        """Accept no more; transfers under way end first."""
        self._listener.stop()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def files(self, study_instance_uid: str | None = None) -> list[Path]:
        """Return what is kept, of one study or of all, in the order of arrival."""
        pattern = f"{_clean(study_instance_uid)}/*.dcm" if study_instance_uid else "*/*.dcm"
        return sorted(self.folder.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name))

    def wait_for(self, count: int, study_instance_uid: str | None = None, *, timeout_s: float = 30) -> list[Path]:
        """Return what is kept as soon as it is at least `count` files, or what there is when the time is over."""
        with self._stored:
            self._stored.wait_for(lambda: len(self.files(study_instance_uid)) >= count, timeout=timeout_s)
        return self.files(study_instance_uid)

    def _admit(self, caller: Caller) -> Rejection | None:
        return None if caller.called_ae_title == self.ae_title else CALLED_UNKNOWN

    def _store(self, event: Any) -> int:
        request = event.request
        data = request.DataSet.getbuffer()
        try:
            header = inspect(
                data,
                UID(event.context.transfer_syntax),
                sop_class=str(request.AffectedSOPClassUID),
                sop_instance=str(request.AffectedSOPInstanceUID),
                maximum_pixels=self._limits.maximum_pixels * 64,  # a segmentation has a frame for each segment
                maximum_bytes=self._limits.maximum_instance_bytes,
            )
        except Unusable as error:
            return error.status.code or CANNOT_PARSE.code
        study = self.folder / _clean(header.StudyInstanceUID)
        study.mkdir(exist_ok=True)
        part = study / f"{_clean(header.SOPInstanceUID)}.part"
        part.write_bytes(b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta) + bytes(data))
        with self._stored:
            part.replace(part.with_suffix(".dcm"))
            self._stored.notify_all()
        return 0x0000

    def _commit(self, event: Any) -> tuple[int, None]:
        self._asked[event.assoc] = event.action_information
        return 0x0000, None

    def _answered(self, association: Any) -> None:
        asked = self._asked.pop(association, None)
        if asked is not None:
            threading.Thread(target=self._report, args=(association, asked), daemon=True).start()

    def _report(self, association: Any, asked: Dataset) -> None:
        transaction_uid, references = commitment.parse_request(asked)
        kept = [each for each in references if self._keeps(each[1])]
        failed = [(*each, NO_SUCH_INSTANCE) for each in references if each not in kept]
        with suppress(CarpusError):  # who asked has left; the C-FIND will tell
            commitment.report_on(association, transaction_uid, kept, failed)

    def _keeps(self, sop_instance_uid: str) -> bool:
        return any(self.folder.glob(f"*/{_clean(sop_instance_uid)}.dcm"))

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        """Answer a query at the level of instances by study, series and instance; other keys are not matched."""
        asked = event.identifier
        wanted = {name: str(asked.get(name) or "") for name in ("SeriesInstanceUID", "SOPInstanceUID")}
        for path in self.files(str(asked.get("StudyInstanceUID") or "") or None):
            header = dcmread(path, specific_tags=["StudyInstanceUID", "SOPClassUID", *wanted])
            if all(not uid or header.get(name) == uid for name, uid in wanted.items()):
                answer = Dataset()
                answer.QueryRetrieveLevel = asked.get("QueryRetrieveLevel", "IMAGE")
                for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
                    setattr(answer, name, header.get(name))
                yield 0xFF00, answer


def _clean(uid: str) -> str:
    """Return a UID as the name of a file; what is no UID loses what it may not hold."""
    return _NOT_OF_A_UID.sub("", uid)[:64].strip(".") or "unnamed"
