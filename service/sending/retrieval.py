"""Get instances back from a PACS: C-FIND what there is, then C-GET on the same association, or C-MOVE to a listener of our own.

Everything has one deadline. What an answer leaves out is taken as unknown, not as an error (field lesson 23); what arrives stays
in memory and is never more than asked for.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from service.conformance import STORAGE_CLASSES, TRANSFER_SYNTAXES
from service.errors import Permanent, Retryable
from service.sending import query
from service.sending.requestor import Address, associate
from service.settings import PriorSettings

GET: Final = UID(StudyRootQueryRetrieveInformationModelGet)
MOVE: Final = UID(StudyRootQueryRetrieveInformationModelMove)
REPORTS: Final = (ComprehensiveSRStorage, Comprehensive3DSRStorage, EnhancedSRStorage)
NATIVE: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
WARNING: Final = 0xB000  # PS3.4 C.4.2.1.5 and C.4.3.1.4: some sub-operations failed
DONE: Final = (0x0000, WARNING)
CANCELLED: Final = 0xA700
MAXIMUM_INSTANCES: Final = 200  # of one look-up; more is a mistake of the peer's
MAXIMUM_BYTES: Final = 256 * 2**20  # of one look-up, and of one answer over the web; no film is larger
_listening = threading.Lock()  # one listener for C-MOVE at a time: its port is fixed, the PACS knows it


@dataclass(frozen=True, slots=True)
class Found:
    """One series in an archive; what its answer left out is empty."""

    StudyInstanceUID: str
    SeriesInstanceUID: str
    StudyDate: str = ""
    SeriesDescription: str = ""


def late(who: str, settings: PriorSettings) -> Retryable:
    """Return what is said of an archive that did not answer before the deadline."""
    return Retryable(
        f"{who} did not answer within {settings.timeout_seconds:g} s",
        code="priors-timeout",
        next_action="raise priors.timeout_seconds of this destination, or switch its priors off",
    )


@dataclass(slots=True)
class Archive:
    """A PACS that is asked, and the moment by which it must have answered.

    Parameters
    ----------
    deadline
        On the monotonic clock.
    """

    address: Address
    calling_ae_title: str
    settings: PriorSettings
    deadline: float
    _arrived: list[Dataset] = field(default_factory=list)
    _bytes: int = 0

    @property
    def seconds_left(self) -> float:
        """Time left.

        Raises
        ------
        Retryable
            When there is none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise late(self.address.ae_title, self.settings)
        return left

    def report_series(self, patient_id: str) -> list[Found]:
        """Return the report series of a patient, asked study by study over one association."""
        with self._associated([*query.CONTEXTS]) as peer:
            if not peer.accepted_contexts:
                raise query.not_offered(self.address)
            studies = self._ask(peer, "STUDY", PatientID=patient_id, StudyInstanceUID="", StudyDate="")
            found = []
            for study in studies:
                # Some archives match a patient's number loosely; an answer that names another patient is not ours.
                if study.get("PatientID", patient_id) != patient_id or not study.get("StudyInstanceUID"):
                    continue
                keys = {"SeriesInstanceUID": "", "Modality": "SR", "SeriesDescription": ""}
                for series in self._ask(peer, "SERIES", StudyInstanceUID=str(study.StudyInstanceUID), **keys):
                    if series.get("Modality", "SR") == "SR" and series.get("SeriesInstanceUID"):
                        found.append(
                            Found(
                                str(study.StudyInstanceUID),
                                str(series.SeriesInstanceUID),
                                str(study.get("StudyDate", "") or ""),
                                str(series.get("SeriesDescription", "") or ""),
                            )
                        )
            return found

    def reports(self, series: Sequence[Found]) -> list[Dataset]:
        """Return every report of these series."""
        questions = [("SERIES", each.StudyInstanceUID, each.SeriesInstanceUID, "") for each in series]
        return self._retrieved(questions, REPORTS, NATIVE)

    def film(self, study: str, series: str, instance: str) -> Dataset | None:
        """Return one film, None where the archive has it no more."""
        found = self._retrieved([("IMAGE", study, series, instance)], STORAGE_CLASSES, TRANSFER_SYNTAXES)
        return next((ds for ds in found if ds.SOPInstanceUID == instance), None)

    def _ask(self, peer: Any, level: str, **keys: str) -> list[Dataset]:
        question = Dataset()
        question.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(question, keyword, value)
        peer.dimse_timeout = self.seconds_left
        return query.ask(peer, question, self.address)

    def _retrieved(
        self, questions: Sequence[tuple[str, str, str, str]], classes: Sequence[UID], syntaxes: Sequence[UID]
    ) -> list[Dataset]:
        if not questions:
            return []
        self._arrived, self._bytes = [], 0
        move = self.settings.retrieve == "move"
        with self._by_move(classes, syntaxes) if move else self._by_get(classes, syntaxes) as peer:
            for level, study, series, instance in questions:
                identifier = Dataset()
                identifier.QueryRetrieveLevel = level
                identifier.StudyInstanceUID, identifier.SeriesInstanceUID = study, series
                if instance:
                    identifier.SOPInstanceUID = instance
                peer.dimse_timeout = self.seconds_left
                target = (identifier, self.settings.move_ae_title, MOVE) if move else (identifier, GET)
                self._finish((peer.send_c_move if move else peer.send_c_get)(*target), target[-1])
        return self._arrived

    def _finish(self, answers: Iterator[tuple[Dataset, Dataset | None]], service: UID) -> None:
        for status, _ in answers:
            if "Status" not in status:
                raise Retryable(
                    f"{self.address.ae_title} aborted the retrieval or did not answer in time",
                    code="association-aborted",
                )
            if status.Status not in (*query.PENDING, *DONE):
                raise Retryable(
                    f"{self.address.ae_title} refused {service.name} with 0x{status.Status:04X}",
                    code=f"status-{status.Status:04x}",
                    next_action=self._what_to_change(status.Status),
                )

    def _what_to_change(self, status: int) -> str:
        if status == 0xA801:  # PS3.4 C.4.2.1.5: move destination unknown
            return (
                f"in the PACS, register the AE title {self.settings.move_ae_title} with the address of this machine "
                f"and port {self.settings.move_port}"
            )
        return "ask the PACS administrator for its log of this retrieval, or switch the priors of this destination off"

    @contextmanager
    def _associated(self, contexts: Sequence[tuple[UID, UID]], **options: Any) -> Iterator[Any]:
        with associate(
            self.address,
            contexts,
            calling_ae_title=self.calling_ae_title,
            timeout_seconds=self.seconds_left,
            ends_after_seconds=self.seconds_left,
            **options,
        ) as peer:
            yield peer

    @contextmanager
    def _by_get(self, classes: Sequence[UID], syntaxes: Sequence[UID]) -> Iterator[Any]:
        """Associate so that the peer stores to us on the same association (PS3.7 D.3.3.4, role selection)."""
        contexts = [(GET, syntax) for syntax in NATIVE]
        contexts += [(each, syntax) for each in classes for syntax in syntaxes]
        options = {
            "ext_neg": [build_role(each, scp_role=True) for each in classes],
            "evt_handlers": [(evt.EVT_C_STORE, self._store)],
        }
        with self._associated(contexts, **options) as peer:
            self._check(peer, GET)
            yield peer

    @contextmanager
    def _by_move(self, classes: Sequence[UID], syntaxes: Sequence[UID]) -> Iterator[Any]:
        """Listen where the PACS was told to send to, for the duration of this retrieval."""
        if not _listening.acquire(timeout=self.seconds_left):
            self.seconds_left  # noqa: B018 - says that the time is over
        try:
            ae = AE(ae_title=self.settings.move_ae_title)
            ae.require_called_aet = True
            ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = self.seconds_left
            for each in classes:
                ae.add_supported_context(each, list(syntaxes))
            where = (self.settings.move_host, self.settings.move_port or 0)
            try:
                server: Any = ae.start_server(where, block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
            except OSError as error:
                raise Permanent(
                    f"cannot listen on {where[0]}:{where[1]} for earlier reports: {error.strerror}",
                    code="priors-port",
                    next_action="give priors.move_port of this destination a free port",
                ) from error
            try:
                with self._associated([(MOVE, syntax) for syntax in NATIVE]) as peer:
                    self._check(peer, MOVE)
                    yield peer
            finally:
                server.shutdown()
        finally:
            _listening.release()

    def _check(self, peer: Any, service: UID) -> None:
        if all(context.abstract_syntax != service for context in peer.accepted_contexts):
            raise Permanent(
                f"{self.address.ae_title} does not offer {service.name}",
                code="sop-class-refused",
                next_action=f"in the PACS, allow {service.name} ({service}) for our AE title, or set priors.retrieve of this destination",
            )

    def _store(self, event: Any) -> int:
        """Keep what was asked for, in memory; refuse more when the time is over."""
        self._bytes += event.request.DataSet.getbuffer().nbytes
        if time.monotonic() > self.deadline or len(self._arrived) >= MAXIMUM_INSTANCES or self._bytes > MAXIMUM_BYTES:
            return CANCELLED
        try:
            ds = event.dataset
            ds.file_meta = event.file_meta
        except (AttributeError, ValueError, KeyError, NotImplementedError):
            return 0xC000  # PS3.4 B.2.3: cannot understand
        self._arrived.append(ds)
        return 0x0000
