"""PACS that misbehave, each in one way, on a free port of this machine."""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from service.conformance import STORAGE_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from service.stand_in_pacs import RESULT_CLASSES

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
    """

    def __init__(
        self,
        behaviour: Behaviour = accepts,
        *,
        ae_title: str = "PACS",
        refuse: Iterable[str] = (),
        callers: Iterable[str] = (),
    ) -> None:
        self.behaviour = behaviour
        self.kept: list[Dataset] = []
        self.requests = 0
        self.associations = 0
        ae = AE(ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(callers)
        ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = 30
        refused = set(refuse)
        for sop_class in (VERIFICATION, *RESULT_CLASSES, *STORAGE_CLASSES):
            if sop_class not in refused:
                ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
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
            self.kept.append(ds)
        return status


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
