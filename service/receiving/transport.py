"""Guard the socket of an association: bounded in what it reads, patient until a deadline, quiet when idle.

pynetdicom believes the length that a PDU claims, waits without limit for a PDU's end, and wakes both threads of an idle
association a thousand times a second. Here every PDU, message and the sum of messages under way is bounded, and what is
refused is logged with the value and the limit.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import AssociationSocket

from service.log import get_logger
from service.receiving.places import INSTANCES_UNDER_WAY, Places
from service.sending.scu import Gate

# 128 presentation contexts of 15 transfer syntaxes each make 140 kB (PS3.8 9.3.2).
MAXIMUM_REQUEST_BYTES: Final = 512 * 1024
ASSOCIATE_RQ: Final = 0x01
_P_DATA: Final = 0x04
# PS3.8 9.3.8: A-ABORT by the service provider: reason 2 unexpected PDU, 6 invalid PDU parameter.
ABORT_UNEXPECTED, ABORT_INVALID = (bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, reason]) for reason in (2, 6))
# An idle association is looked at this often (s); data wakes it at once.
_IDLE_WAIT_S: Final = 0.05
_IDLE_AFTER_S: Final = 1.0

log = get_logger()


class Violation(OSError):
    """The peer broke the protocol or a limit; its connection is over."""


class GuardedSocket(AssociationSocket):
    """The socket of one association: bounded in what it reads, patient only until a deadline, quiet when idle."""

    def __init__(self, association: Any, connection: socket.socket, first: bytes, places: Places, peer: str) -> None:
        self._unread = first
        self._places = places
        self._limits = places.limits
        self._peer = peer
        self._pdu_type: int | None = None  # set between a PDU's header and its body
        self._message_bytes = 0
        self._used_at = time.monotonic()
        self._woken = threading.Event()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN | select.POLLHUP | select.POLLERR)
        self.answering = False  # a request has begun to arrive and has no response yet
        super().__init__(association, client_socket=connection)

    @property
    def ready(self) -> bool:
        """Whether there is something to read. Waits a moment for it on an association that has been idle for a while."""
        if self._unread:
            return True
        if self.socket is None or not self._is_connected:
            return False
        idle = time.monotonic() - self._used_at > _IDLE_AFTER_S and not self.answering
        try:
            # A TLS record holds up to 16 KiB: what it brought beyond the last PDU waits where no poll sees it.
            if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
                return True
            return bool(self._poll.poll(_IDLE_WAIT_S * 1000 if idle else 0))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # PS3.8 9.2.2: transport connection closed
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Read a PDU's header or body, as asked for in turn.

        Raises
        ------
        Violation
            When the PDU, the message it belongs to or the sum of all messages under way passes its limit, or the PDU does
            not end in time. The peer gets an A-ABORT.
        """
        if self._pdu_type is None:
            header = self._take(6)
            if len(header) == 6:
                self._judge(header[0], int.from_bytes(header[2:6], "big"))
                self._pdu_type = header[0]
            return header
        pdu_type, self._pdu_type = self._pdu_type, None
        body = self._take(nr_bytes)
        if pdu_type == _P_DATA:
            self._count(body)
        return body

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; a P-DATA of ours answers the request."""
        super().send(bytestream)
        self._touch()
        if bytestream[:1] == b"\x04":
            self.answering = False

    def close(self) -> None:
        """Close the connection and forget what was under way on it."""
        self._places.under_way(-self._message_bytes)
        self._message_bytes = 0
        self._woken.set()
        super().close()

    def _take(self, count: int) -> bytearray:
        data = bytearray(self._unread[:count])
        self._unread = self._unread[count:]
        deadline = time.monotonic() + self._limits.network_timeout_seconds
        missing = count - len(data)
        if missing and self.socket is not None:
            data.extend(bytes(missing))
            view = memoryview(data)
            done = count - missing
            while done < count:
                received = self.socket.recv_into(view[done:])
                if received == 0:
                    view.release()
                    del data[done:]  # the connection ended inside the PDU; the caller sees that it is short
                    event = (
                        "connection ended inside a PDU" if done or count > 6 else "connection closed without release"
                    )
                    log.info(event, peer=self._peer, bytes=done, of=count)
                    break
                done += received
                if done < count and time.monotonic() > deadline:
                    self._refuse("PDU did not end in time", seconds=self._limits.network_timeout_seconds)
        self._touch()
        return data

    def _judge(self, pdu_type: int, length: int) -> None:
        if pdu_type == _P_DATA:
            # Some peers count the six bytes of the header against the maximum length (PS3.8 D.1 does not).
            limit = self._limits.maximum_pdu_size + 1024
            self.answering = True
        else:
            limit = MAXIMUM_REQUEST_BYTES if pdu_type == ASSOCIATE_RQ else 1024
        if not 1 <= pdu_type <= 7:
            self._refuse("unknown PDU type", pdu_type=pdu_type)
        if length > limit:
            self._refuse("PDU longer than the limit", pdu_type=pdu_type, bytes=length, limit=limit)

    def _count(self, body: bytearray) -> None:
        """Add a P-DATA-TF to its message (PS3.8 9.3.5, E.2: bit 1 of the control header ends a command or data set)."""
        self._message_bytes += len(body)
        total = self._places.under_way(len(body))
        position, ended = 0, False
        while position + 6 <= len(body):
            length = int.from_bytes(body[position : position + 4], "big")
            if length < 2 or position + 4 + length > len(body):
                self._refuse("fragment does not fit into its PDU", bytes=length, limit=len(body) - position - 4)
            if body[position + 4] not in self.assoc._accepted_cx:
                self._refuse("fragment for a presentation context that was not accepted", context=body[position + 4])
            ended = ended or bool(body[position + 5] & 2)
            position += 4 + length
        limit = self._limits.maximum_instance_bytes
        if self._message_bytes > limit + MAXIMUM_REQUEST_BYTES:
            self._refuse("data set longer than the limit", bytes=self._message_bytes, limit=limit)
        if total > limit * INSTANCES_UNDER_WAY:
            self._refuse("too much under way from all peers", bytes=total, limit=limit * INSTANCES_UNDER_WAY)
        if ended:
            self._places.under_way(-self._message_bytes)
            self._message_bytes = 0
            if self.assoc.dimse.msg_queue.qsize() > 1:  # we negotiate no asynchronous operations (PS3.7 D.3.3.3)
                self._refuse("requests sent without waiting for responses", limit=1)

    def _refuse(self, event: str, **fields: Any) -> None:
        log.warning(event, peer=self._peer, **fields)
        connection = self.socket
        if connection is not None:
            with suppress(OSError):
                connection.settimeout(1)
                connection.sendall(ABORT_INVALID)
                connection.shutdown(socket.SHUT_RDWR)
        raise Violation(event)

    def _touch(self) -> None:
        self._used_at = time.monotonic()
        self._woken.set()

    def tolerant(self, receive: Callable[[Any], None]) -> Callable[[Any], None]:
        """Wrap what parses messages: one that cannot be parsed aborts its association and nothing else."""

        def parse(primitive: Any) -> None:
            try:
                receive(primitive)
            except Exception as error:  # noqa: BLE001 - whatever a parser makes of hostile bytes, it is the same outcome
                log.warning("message cannot be parsed", peer=self._peer, error=type(error).__name__)
                self.event_queue.put("Evt19")  # PS3.8 9.2.2: invalid PDU; the state machine answers with A-ABORT

        return parse

    def crossing(self, act: Callable[[str], None]) -> Callable[[str], None]:
        """Wrap the state machine: an answer of ours that crosses an abort ends the association, not its thread."""

        def do_action(event: str) -> None:
            try:
                act(event)
            except InvalidEventError:
                log.info("association ended while it was answered", peer=self._peer, event_code=event)
                self.assoc._kill = self.assoc.dul._kill_thread = True

        return do_action

    def rest(self) -> None:
        """Let the thread that waits for messages wait longer while the association is idle."""
        if not self.answering and time.monotonic() - self._used_at > _IDLE_AFTER_S:
            self._woken.clear()
            self._woken.wait(_IDLE_WAIT_S)


class Checkpoint(Gate):
    """Where an association's thread passes in every round: the place to let it rest."""

    def __init__(self, association: Any, guarded: GuardedSocket) -> None:
        super().__init__(association)
        self._guarded = guarded

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as asked for, and rest while idle."""
        passed = super().wait(timeout)
        self._guarded.rest()
        return passed
