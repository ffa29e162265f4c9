"""Guard the socket of an association: bounded in what it reads, patient until a deadline, quiet when idle.

pynetdicom believes the length that a PDU claims, waits without limit for a PDU's end, copies each fragment of a data set some
eight times, and wakes both threads of an association a thousand times a second. Here every PDU, message and the sum of messages
under way is bounded, and what is refused is logged with the value and the limit; the fragments in the middle of a data set go
straight to the message they belong to; and both threads wait until there is something to do.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import AssociationSocket

from service.log import get_logger
from service.receiving.places import INSTANCES_UNDER_WAY, Places
from service.sending.scu import Gate

# 128 presentation contexts of 15 transfer syntaxes each make 140 kB (PS3.8 9.3.2).
MAXIMUM_REQUEST_BYTES: Final = 512 * 1024
ASSOCIATE_RQ: Final = 0x01
_P_DATA: Final = 0x04
_SLACK: Final = 1030  # bytes of a P-DATA-TF beyond the maximum length: its header, and what some peers count wrongly
# PS3.8 9.3.8: A-ABORT by the service provider: reason 2 unexpected PDU, 6 invalid PDU parameter.
ABORT_UNEXPECTED, ABORT_INVALID = (bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, reason]) for reason in (2, 6))
# An association without news looks around this often (s); news wakes it at once.
_WAIT_S: Final = 0.05
_LAST: Final = 2  # bit 1 of a fragment's control header: the last one of a command or data set (PS3.8 E.2)
_COMMAND: Final = 1  # bit 0: of a command

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
        self._news = threading.Event()  # the state machine has acted: there may be a message, a release, an abort
        self._wake, self._woken = socket.socketpair()  # something is to be sent: the thread that polls must not wait on
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN | select.POLLHUP | select.POLLERR)
        self._poll.register(self._woken, select.POLLIN)
        self._ahead = bytearray()  # what was read beyond the PDU at hand: as much of a data set as there is at once
        self._begin = self._end = 0  # of the part of it that is unread
        self._counted = False  # the PDU at its front is for the state machine, though it was looked into
        self.answering = False  # a request has begun to arrive and has no response yet
        super().__init__(association, client_socket=connection)

    @property
    def ready(self) -> bool:
        """Whether there is a PDU for the state machine; waits a moment for one, or until something is to be sent.

        PDUs that hold nothing but fragments from the middle of a data set are read and added to their message on the way,
        without a state machine, an event and some eight copies for each.
        """
        if self.socket is None or not self._is_connected:
            return False
        try:
            while self._readable(self.socket):
                if not (self._in_data_set() and self._added(self.socket)):
                    return True
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # PS3.8 9.2.2: transport connection closed
        return False

    def _readable(self, connection: socket.socket) -> bool:
        # A TLS record holds up to 16 KiB: what it brought beyond the last PDU waits where no poll sees it.
        if self._unread or self._begin < self._end or (isinstance(connection, ssl.SSLSocket) and connection.pending()):
            return True
        due = bool(self.assoc.dul.to_provider_queue.queue or self.event_queue.queue)
        found = {descriptor for descriptor, _ in self._poll.poll(0 if due else _WAIT_S * 1000)}
        if self._woken.fileno() in found:
            with suppress(BlockingIOError):
                self._woken.recv(4096)
        return connection.fileno() in found

    def waking(self, put: Callable[..., None]) -> Callable[..., None]:
        """Wrap the queue of what is to be sent: its reader is woken."""

        def put_and_wake(*arguments: Any, **options: Any) -> None:
            put(*arguments, **options)
            with suppress(OSError):  # full: it is awake; closed: there is nobody to wake
                self._wake.send(b"\0")

        return put_and_wake

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
            self._pdu_type = header[0] if len(header) == 6 else None
            return header
        pdu_type, self._pdu_type = self._pdu_type, None
        body = self._take(nr_bytes)
        if pdu_type == _P_DATA and not self._counted:
            self._count(body)
        self._counted = False
        return body

    def _in_data_set(self) -> bool:
        """Whether the command of a C-STORE has come and its data set is what follows."""
        return isinstance(self.assoc.dimse.message, C_STORE_RQ)

    def _added(self, connection: socket.socket) -> bool:
        """Add the next PDU to the message under way; False where it is for the state machine, which then finds it unread."""
        if self._unread or self._counted or not self._gathered(connection, 6):
            return False
        length = int.from_bytes(self._ahead[self._begin + 2 : self._begin + 6], "big")
        self._judge(self._ahead[self._begin], length)
        if self._ahead[self._begin] != _P_DATA or not self._gathered(connection, 6 + length):
            return False
        message: Any = self.assoc.dimse.message
        with memoryview(self._ahead) as ahead, ahead[self._begin + 6 : self._begin + 6 + length] as body:
            fragments = self._count(body)
            self._counted = True
            if not fragments or sum(fragments[-1]) + 4 != length:
                return False  # malformed; whoever decodes it says so
            if any(body[at + 5] & (_LAST | _COMMAND) or body[at + 4] != message.context_id for at, _ in fragments):
                return False
            for at, size in fragments:
                message.data_set.write(body[at + 6 : at + 4 + size])
        self._begin += 6 + length
        self._counted = False
        self.assoc.dul._idle_timer.restart()
        return True

    def _gathered(self, connection: socket.socket, count: int) -> bool:
        """Read ahead until so many bytes of a PDU are there; False when the connection ends before."""
        if self._end - self._begin >= count:
            return True
        if not self._ahead:
            self._ahead = bytearray(2 * (self._limits.maximum_pdu_size + _SLACK))
        if len(self._ahead) - self._begin < count:  # what is there of it moves to the front
            self._ahead[: self._end - self._begin] = self._ahead[self._begin : self._end]
            self._begin, self._end = 0, self._end - self._begin
        elif self._begin == self._end:
            self._begin = self._end = 0
        deadline = time.monotonic() + self._limits.network_timeout_seconds
        with memoryview(self._ahead) as ahead:
            while self._end - self._begin < count:
                received = connection.recv_into(ahead[self._end :])
                if received == 0:
                    return False
                self._end += received
                if self._end - self._begin < count and time.monotonic() > deadline:
                    self._refuse("PDU did not end in time", seconds=self._limits.network_timeout_seconds)
        return True

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; a P-DATA of ours answers the request."""
        super().send(bytestream)
        if bytestream[:1] == b"\x04":
            self.answering = False

    def close(self) -> None:
        """Close the connection and forget what was under way on it."""
        self._places.under_way(-self._message_bytes)
        self._message_bytes = 0
        self._news.set()
        super().close()
        self._wake.close()
        self._woken.close()

    def _take(self, count: int) -> bytearray:
        """Read so many bytes; fewer when the connection ends."""
        data = bytearray(count)
        done = min(count, len(self._unread))
        data[:done] = self._unread[:done]
        self._unread = self._unread[done:]
        more = min(count - done, self._end - self._begin)
        data[done : done + more] = self._ahead[self._begin : self._begin + more]
        self._begin, done = self._begin + more, done + more
        deadline = time.monotonic() + self._limits.network_timeout_seconds
        connection = self.socket
        if done < count and connection is None:
            del data[done:]
        elif connection is not None:
            view = memoryview(data)
            while done < count:
                received = connection.recv_into(view[done:])
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
        return data

    def _judge(self, pdu_type: int, length: int) -> None:
        if pdu_type == _P_DATA:
            # Some peers count the six bytes of the header against the maximum length (PS3.8 D.1 does not).
            limit = self._limits.maximum_pdu_size + _SLACK - 6
            self.answering = True
        else:
            limit = MAXIMUM_REQUEST_BYTES if pdu_type == ASSOCIATE_RQ else 1024
        if not 1 <= pdu_type <= 7:
            self._refuse("unknown PDU type", pdu_type=pdu_type)
        if length > limit:
            self._refuse("PDU longer than the limit", pdu_type=pdu_type, bytes=length, limit=limit)

    def _count(self, body: bytearray | memoryview) -> list[tuple[int, int]]:
        """Add a P-DATA-TF to what is under way (PS3.8 9.3.5, E.2); return where each fragment begins, and its length."""
        self._message_bytes += len(body)
        total = self._places.under_way(len(body))
        position, ended = 0, False
        fragments = []
        while position + 6 <= len(body):
            length = int.from_bytes(body[position : position + 4], "big")
            if length < 2 or position + 4 + length > len(body):
                self._refuse("fragment does not fit into its PDU", bytes=length, limit=len(body) - position - 4)
            if body[position + 4] not in self.assoc._accepted_cx:
                self._refuse("fragment for a presentation context that was not accepted", context=body[position + 4])
            ended = ended or bool(body[position + 5] & _LAST)
            fragments.append((position, length))
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
        return fragments

    def _refuse(self, event: str, **fields: Any) -> None:
        log.warning(event, peer=self._peer, **fields)
        connection = self.socket
        if connection is not None:
            with suppress(OSError):
                connection.settimeout(1)
                connection.sendall(ABORT_INVALID)
                connection.shutdown(socket.SHUT_RDWR)
        raise Violation(event)

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
        """Wrap the state machine: what it cannot act on ends the association in good order, not with an error of its thread.

        That is an answer of ours that crosses an abort, or a PDU that is decoded but says what it must not, as an A-ABORT
        from a source that there is not (PS3.8 9.3.8).
        """

        def do_action(event: str) -> None:
            try:
                act(event)
            except InvalidEventError:
                log.info("association ended while it was answered", peer=self._peer, event_code=event)
                self.assoc._kill = self.assoc.dul._kill_thread = True
            except Exception as error:  # noqa: BLE001 - whatever a state machine makes of hostile bytes, it is the same outcome
                log.warning("PDU cannot be acted on", peer=self._peer, error=type(error).__name__)
                self.assoc._kill = self.assoc.dul._kill_thread = True
            finally:
                self._news.set()

        return do_action

    def rest(self) -> None:
        """Let the thread that waits for messages wait until the state machine has acted."""
        self._news.wait(_WAIT_S)
        self._news.clear()


class Checkpoint(Gate):
    """Where an association's thread passes in every round: the place to let it rest."""

    def __init__(self, association: Any, guarded: GuardedSocket) -> None:
        super().__init__(association)
        self._guarded = guarded

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as asked for, and rest until there is news."""
        passed = super().wait(timeout)
        self._guarded.rest()
        return passed
