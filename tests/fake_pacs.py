"""PACS that misbehave, each in one way, on a free port of this machine."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from service.conformance import STORAGE_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from service.demo.stand_in_pacs import RESULT_CLASSES
from service.errors import Retryable
from service.sending import commitment, query
from service.sending.requestor import Address

Behaviour = Callable[[Any], int]


def accepts(_event: Any) -> int:
    """Keep the instance (`FakePacs.kept`)."""
    return 0x0000


def answers(status: int) -> Behaviour:
    """Return a behaviour that answers every C-STORE with this status."""
    return lambda _event: status


def out_of_resources_then_accepts(refusals: int) -> Behaviour:
    """Answer 0xA700 so many times, then accept."""
    left = iter(range(refusals))
    return lambda _event: 0xA700 if next(left, None) is not None else 0x0000


def aborts(event: Any) -> int:
    """Abort the association instead of answering."""
    event.assoc.abort()
    return 0x0000


def never_answers(event: Any) -> int:
    """Hold the request until the other side loses patience."""
    while event.assoc.is_established and not _CLOSING.wait(0.05):
        pass
    return 0x0000


def forgets(_event: Any) -> int:
    """Answer Success and keep nothing."""
    return 0x0000


_CLOSING = threading.Event()


class FakePacs(AbstractContextManager["FakePacs"]):
    """A PACS with one behaviour.

    Parameters
    ----------
    behaviour
        What it does with a C-STORE.
    refuse
        SOP classes that it gives no presentation context.
    callers
        AE titles that it knows; anyone when empty.
    commits
        How it answers a storage commitment request: with a report on the same association ("same"), on a new one to
        `reports_to` ("another"), as soon as `report_now` is called ("later"), never ("silent"), or not at all ("no").
    queried
        Whether it offers C-FIND.
    reports_to
        Address of the listener that takes the reports.
    reports_as
        AE title that reports on an association of its own; None for `ae_title`.
    """

    def __init__(
        self,
        behaviour: Behaviour = accepts,
        *,
        ae_title: str = "PACS",
        refuse: Iterable[str] = (),
        callers: Iterable[str] = (),
        commits: str = "no",
        queried: bool = False,
        reports_to: Address | None = None,
        reports_as: str | None = None,
    ) -> None:
        self.behaviour = behaviour
        self.ae_title = ae_title
        self.reports_as = reports_as or ae_title
        self.kept: list[Dataset] = []
        self.requests = 0
        self.associations = 0
        self.commits = commits
        self.reports_to = reports_to
        self.asked: list[tuple[str, list[commitment.Reference]]] = []
        self.reasons: dict[str, int] = {}  # by SOP class: FailureReason of its objects in every report
        self.lost: set[str] = set()  # SOP classes that are accepted and not kept
        self._requests: dict[Any, tuple[str, list[commitment.Reference]]] = {}
        ae = AE(ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(callers)
        ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = 30
        refused = set(refuse)
        for sop_class in (VERIFICATION, *RESULT_CLASSES, *STORAGE_CLASSES):
            if sop_class not in refused:
                ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        if commits != "no":
            ae.add_supported_context(commitment.PUSH_MODEL)
        if queried:
            ae.add_supported_context(query.STUDY_ROOT_FIND)
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_N_ACTION, self._commit),
            *commitment.after_response("N_ACTION_RSP", self._answered),
            (evt.EVT_C_FIND, self._find),
        ]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert isinstance(server, ThreadedAssociationServer)
        self._server = server
        self.port: int = server.server_address[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, whatever is being held."""
        _CLOSING.set()
        for association in self._server.active_associations:
            association.abort()
        self._server.shutdown()
        _CLOSING.clear()

    def _accepted(self, _event: Any) -> None:
        self.associations += 1

    def _store(self, event: Any) -> int:
        self.requests += 1
        status = self.behaviour(event)
        if status == 0x0000 and self.behaviour is not forgets and event.assoc.is_established:
            ds = event.dataset
            ds.file_meta = event.file_meta
            if ds.SOPClassUID not in self.lost:
                self.kept.append(ds)
        return status

    def report_now(self) -> None:
        """Report on everything that was asked so far, each on a new association."""
        for transaction_uid, references in self.asked:
            self._report_anew(transaction_uid, references)

    def _report_anew(self, transaction_uid: str, references: list[commitment.Reference]) -> None:
        """Report on an association of our own."""
        assert self.reports_to is not None
        commitment.report(
            self.reports_to,
            transaction_uid,
            *self._truth(references),
            calling_ae_title=self.reports_as,
            timeout_seconds=10,
        )

    def _truth(
        self, references: list[commitment.Reference]
    ) -> tuple[list[commitment.Reference], list[tuple[str, str, int]]]:
        kept = {ds.SOPInstanceUID for ds in self.kept}
        committed = [each for each in references if each[1] in kept and each[0] not in self.reasons]
        return committed, [(*each, self.reasons.get(each[0], 0x0112)) for each in references if each not in committed]

    def _commit(self, event: Any) -> tuple[int, None]:
        asked = commitment.parse_request(event.action_information)
        self.asked.append(asked)
        self._requests[event.assoc] = asked
        return 0x0000, None

    def _answered(self, association: Any) -> None:
        asked = self._requests.pop(association, None)
        if asked is not None:
            threading.Thread(target=self._report, args=(association, *asked), daemon=True).start()

    def _report(self, association: Any, transaction_uid: str, references: list[commitment.Reference]) -> None:
        with suppress(Retryable):  # a report that is refused or not answered is the end of it, as with many a PACS
            if self.commits == "same":
                commitment.report_on(association, transaction_uid, *self._truth(references))
            elif self.commits == "another":
                self._report_anew(transaction_uid, references)

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset]]:
        asked = event.identifier
        for ds in list(self.kept):
            if ds.StudyInstanceUID == asked.StudyInstanceUID and ds.SeriesInstanceUID == asked.SeriesInstanceUID:
                answer = Dataset()
                answer.SOPInstanceUID = ds.SOPInstanceUID
                yield 0xFF00, answer


class SilentPort(AbstractContextManager["SilentPort"]):
    """A port that takes connections and says nothing, or with `hang_up` ends them at once: no DICOM at all."""

    def __init__(self, *, hang_up: bool = False) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._hang_up = hang_up
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop and close what is open."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(2)
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                if self._hang_up:
                    connection.close()
                else:
                    self._open.append(connection)
