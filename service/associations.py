"""Associations of pynetdicom 3.0.4, repaired where they lost a descriptor, a response or a thread; both rooms of DICOM stand on them."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_RELEASE, P_DATA
from pynetdicom.transport import AssociationSocket


def _close_socket(self: Any) -> None:
    """Close also a socket that was never connected: pynetdicom 3.0.4 leaks one descriptor with each refused connection."""
    if self.socket is not None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


AssociationSocket._shutdown_socket = _close_socket  # type: ignore[method-assign]  # the repair above


class Gate(threading.Event):
    """Where the thread of an association is held while another sends a request and waits for the response.

    In pynetdicom 3.0.4 that thread says "no longer held" some moments after it has passed: a sender that closes the gate in
    between believes it held, and loses the response to it ("Received unexpected C-STORE service message", then a time-out). Here
    passing and saying so are one step. And a sender waits without end for the thread to say that it is held: it was seen held with
    the word taken back, and confirmations stood still for good. So the gate itself knows whom it holds (`holds`), and that counts.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association
        self._one = threading.Lock()
        self.holds = False
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the gate is open, and pass."""
        while True:
            with self._one:
                self.holds = not self.is_set()
                if not self.holds:
                    self._association._is_paused = False
                    return True
            if not super().wait(timeout):
                return False

    def clear(self) -> None:
        """Close the gate: who has not passed by now will not."""
        with self._one:
            super().clear()


def _with_gate(make: Callable[..., None]) -> Callable[..., None]:
    def made(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self._reactor_checkpoint = Gate(self)

    return made


def _is_held(self: Any) -> bool:
    """Whether the association's own thread takes nothing from the queues now: as it says, as its gate knows, or because it has ended."""
    ended = self.ident is not None and not self.is_alive()
    return bool(self.__dict__["_is_paused"] or self._reactor_checkpoint.holds or ended)


def _say_held(self: Any, held: bool) -> None:
    self.__dict__["_is_paused"] = held


Association.__init__ = _with_gate(Association.__init__)  # type: ignore[method-assign]  # the repair above
Association._is_paused = property(_is_held, _say_held)  # type: ignore[assignment]  # the same


def leave_in_silence(peer: Any) -> None:
    """Send no data behind our own A-RELEASE-RQ (PS3.8 7.2): to answer a report that comes as we leave would end pynetdicom's thread."""
    send, one, leaving = peer.dul.send_pdu, threading.Lock(), threading.Event()

    def send_pdu(primitive: Any) -> None:
        with one:
            if leaving.is_set() and isinstance(primitive, P_DATA):
                return
            if isinstance(primitive, A_RELEASE):
                leaving.set()
            send(primitive)

    peer.dul.send_pdu = send_pdu
