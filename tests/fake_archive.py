"""An archive that can be asked: C-FIND by study and series, C-GET and C-MOVE, each well or badly as a test wants it."""

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, evt

from service.conformance import STORAGE_CLASSES, TRANSFER_SYNTAXES
from service.sending import query
from service.sending.requestor import Address
from service.sending.retrieval import GET, MOVE, NATIVE, REPORTS


class FakeArchive(AbstractContextManager["FakeArchive"]):
    """An archive of instances.

    Parameters
    ----------
    leave_out
        Return keys it does not fill in, as small archives do.
    loose
        Whether it answers with every patient, whatever was asked.
    seconds
        How long it thinks before each answer.
    without
        Services it does not offer.
    knows
        AE title -> (host, port) of the C-MOVE destinations it knows.
    """

    def __init__(
        self,
        instances: Iterable[Dataset],
        *,
        leave_out: Iterable[str] = (),
        loose: bool = False,
        seconds: float = 0.0,
        without: Iterable[str] = (),
        knows: dict[str, tuple[str, int]] | None = None,
    ) -> None:
        self.instances = list(instances)
        self.leave_out, self.loose, self.seconds = set(leave_out), loose, seconds
        self.knows = knows or {}
        self.retrieved = 0
        ae = AE("ARCHIVE")
        ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = 30
        for service in (query.STUDY_ROOT_FIND, GET, MOVE):
            if service not in set(without):
                ae.add_supported_context(service, list(NATIVE))
        for sop_class in (*REPORTS, *STORAGE_CLASSES):
            ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES), scu_role=True, scp_role=True)
            ae.add_requested_context(sop_class)
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_GET, self._get), (evt.EVT_C_MOVE, self._move)]
        server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self._server = server
        self.address = Address("ARCHIVE", "127.0.0.1", server.server_address[1])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        for association in self._server.active_associations:
            association.abort()
        self._server.shutdown()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        question, seen = event.identifier, set()
        level_key = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}[question.QueryRetrieveLevel]
        for ds in self.instances:
            time.sleep(self.seconds)
            keys = [k for k in ("PatientID", "StudyInstanceUID", "Modality") if question.get(k)]
            if not self.loose and any(ds.get(key) != question.get(key) for key in keys):
                continue
            if ds[level_key].value in seen:
                continue
            seen.add(ds[level_key].value)
            answer = Dataset()
            for element in question:
                if element.keyword not in self.leave_out and element.keyword in ds:
                    answer[element.keyword] = ds[element.keyword]
            if self.loose:
                answer.PatientID = ds.PatientID
            yield 0xFF00, answer
        yield 0x0000, None

    def _matching(self, question: Dataset) -> list[Dataset]:
        keys = [k for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID") if question.get(k)]
        return [ds for ds in self.instances if all(ds[key].value == question.get(key) for key in keys)]

    def _get(self, event: Any) -> Iterator[Any]:
        found = self._matching(event.identifier)
        yield len(found)
        for ds in found:
            time.sleep(self.seconds)
            self.retrieved += 1
            yield 0xFF00, ds

    def _move(self, event: Any) -> Iterator[Any]:
        where = self.knows.get(event.move_destination.strip())
        if where is None:
            yield None, None
            return
        yield where
        found = self._matching(event.identifier)
        yield len(found)
        for ds in found:
            self.retrieved += 1
            yield 0xFF00, ds
