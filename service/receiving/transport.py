"""Guard the socket of an association: bounded in what it reads, patient until a deadline, quiet when idle.

pynetdicom believes the length that a PDU claims, waits without limit for a PDU's end, copies each fragment of a data set some
eight times, and wakes both threads of an association a thousand times a second. Here every PDU, message and the sum of messages
under way is bounded, and what is refused is logged with the value and the limit; a C-STORE is read, kept and answered at once, its
data set going straight to where its file is written from; and both threads wait until there is something to do, inside a film until
there is much to do.
"""

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import AssociationSocket

from service.associations import Gate
from service.conformance import Status
from service.log import get_logger
from service.receiving.c_store import MAXIMUM_COMMAND_BYTES, SHORTEST_PDU_BYTES, StoreRequest, file_head, response
from service.receiving.incoming import COMMAND, FRAGMENT_HEADER, LAST, P_DATA, PDU_HEADER, Arrival, Incoming, Malformed
from service.receiving.memory import Lender
from service.receiving.offer import Offer
from service.receiving.places import INSTANCES_UNDER_WAY, Places

# 128 presentation contexts of 15 transfer syntaxes each make 140 kB (PS3.8 9.3.2).
MAXIMUM_REQUEST_BYTES: Final = 512 * 1024
ASSOCIATE_RQ: Final = 0x01
ASSOCIATE_AC: Final = 0x02
_PARTING: Final = (0x05, 0x06, 0x07)  # A-RELEASE-RQ and -RP, A-ABORT
_SLACK: Final = 1024  # bytes of a P-DATA-TF beyond the maximum length: what some peers count wrongly
# PS3.8 9.3.8: A-ABORT by the service provider: reason 2 unexpected PDU, 6 invalid PDU parameter.
ABORT_UNEXPECTED, ABORT_INVALID = (bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, reason]) for reason in (2, 6))
# An association without news looks around this often (s); news wakes it at once.
_WAIT_S: Final = 0.25
_LOOK_BYTES: Final = 16_384  # read at once to see what comes
# Inside a data set a sender that we keep up with would wake us for every 64 KiB, some hundred times a film, and each time costs
# more of the processor than what it brings: so much is to be there first, or so long to have passed (s).
_ENOUGH_BYTES: Final = 512 * 1024
_GATHERING_S: Final = 0.002
_ESTABLISHED: Final = "Sta6"  # PS3.8 9.2.1: ready for data transfer
Keep = Callable[[Arrival], tuple[Status, str]]

log = get_logger()


class Violation(OSError):
    """The peer broke the protocol or a limit; its connection is over."""


class GuardedSocket(AssociationSocket):
    """The socket of one association: bounded in what it reads, patient only until a deadline, quiet when idle.

    Parameters
    ----------
    offer
        The request for the association, which was read already.
    keep
        Takes what a C-STORE brings and says how it is answered, with a comment; None leaves C-STORE to pynetdicom.
    lender
        Memory for films.
    """

    def __init__(
        self,
        association: Any,
        connection: socket.socket,
        offer: Offer,
        places: Places,
        peer: str,
        *,
        keep: Keep | None,
        lender: Lender,
    ) -> None:
        self.offer = offer
        self._unread = bytearray(offer.request)
        self._parting = False
        self._places = places
        self._limits = places.limits
        self._peer = peer
        self._keep, self._lender = keep, lender
        self._pdu_type: int | None = None  # set between a PDU's header and its body
        self._message_bytes = 0
        self._counting = threading.Lock()
        self._news = threading.Event()  # the state machine has acted: there may be a message, a release, an abort
        self._wake, self._woken = socket.socketpair()  # something is to be sent: the thread that polls must not wait on
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN | select.POLLHUP | select.POLLERR)
        self._poll.register(self._woken, select.POLLIN)
        self._incoming: Incoming | None = None  # the C-STORE under way
        self._gathering = False  # the kernel wakes us for much, and not for little
        self._pdu_due = 0.0  # when the next PDU of it must have ended
        self.answering = False  # a request has begun to arrive and has no response yet
        super().__init__(association, client_socket=connection)

    @property
    def ready(self) -> bool:
        """Whether there is a PDU for the state machine; waits a moment for one, or until something is to be sent.

        A C-STORE is served on the way: while an association is ready for data transfer it stays so, whatever data comes
        (PS3.8 9.2: DT-1, DT-2), and a state machine, events and some eight copies of each fragment would change nothing.
        """
        if self.socket is None or not self._is_connected:
            return False
        try:
            while self._readable(self.socket):
                incoming = self._incoming
                if not (self._begun(self.socket) if incoming is None else self._received(incoming, self.socket)):
                    return True
                if self.assoc.dul.to_provider_queue.queue:
                    break
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # PS3.8 9.2.2: transport connection closed
        return False

    def _readable(self, connection: socket.socket) -> bool:
        # A TLS record holds up to 16 KiB: what it brought beyond the last PDU waits where no poll sees it.
        if self._unread or (isinstance(connection, ssl.SSLSocket) and connection.pending()):
            return True
        due = bool(self.assoc.dul.to_provider_queue.queue or self.event_queue.queue)
        longest = _GATHERING_S if self._gathering else _WAIT_S
        found = {descriptor for descriptor, _ in self._poll.poll(0 if due else longest * 1000)}
        if self._woken.fileno() in found:
            with suppress(BlockingIOError):
                self._woken.recv(4096)
        if connection.fileno() in found or (self._gathering and not found):  # then there may be little
            return True
        if self._incoming is not None:
            self._in_time()
        return False

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
        if pdu_type == P_DATA:
            self._count(body)
        return body

    def _begun(self, connection: socket.socket) -> bool:
        """Take the command of a C-STORE where it comes next; False leaves what there is to the state machine."""
        association = self.assoc
        idle = association.dul.state_machine.current_state == _ESTABLISHED and association.dimse.message is None
        if self._keep is None or not idle:
            return False
        if not self._peeked(connection, 6):
            return False
        kind, length = PDU_HEADER.unpack_from(self._unread)
        if kind != P_DATA:
            return False
        self._judge(kind, length)
        if length < 6 or not self._peeked(connection, 12):
            return False
        size, context_id, control = FRAGMENT_HEADER.unpack_from(self._unread, 6)
        context = association._accepted_cx.get(context_id)
        if control != COMMAND | LAST or context is None or not 2 <= size <= min(length - 4, MAXIMUM_COMMAND_BYTES):
            return False
        if not self._peeked(connection, 10 + size):
            return False
        request = StoreRequest.of(bytes(self._unread[12 : 10 + size]))
        takes = association.requestor.maximum_length or SHORTEST_PDU_BYTES  # PS3.8 D.1: 0 is no limit
        if request is None or request.AffectedSOPClassUID != context.abstract_syntax or takes < SHORTEST_PDU_BYTES:
            return False
        uids = request.AffectedSOPClassUID, request.AffectedSOPInstanceUID, str(context.transfer_syntax[0])
        self._incoming = Incoming(
            request,
            context_id,
            self._lender.take(),
            file_head(*uids, association.requestor.ae_title),
            maximum_pdu_bytes=self._limits.maximum_pdu_size + _SLACK,
            maximum_bytes=self._limits.maximum_instance_bytes,
        )
        del self._unread[: 10 + size]
        if size + 4 < length:  # what follows the command in its PDU makes up a PDU of its own
            self._unread[:0] = PDU_HEADER.pack(P_DATA, length - size - 4)
        self._pdu_due = time.monotonic() + self._limits.network_timeout_seconds
        self._gather(connection, True)
        return True

    def _gather(self, connection: socket.socket, wanted: bool) -> None:
        """Let the kernel wake us when much has come, or as soon as anything has; TLS gives us a record at a time."""
        if wanted is not self._gathering and not isinstance(connection, ssl.SSLSocket):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _ENOUGH_BYTES if wanted else 1)
            self._gathering = wanted

    def _peeked(self, connection: socket.socket, count: int) -> bool:
        """Read until so many bytes of a PDU are there; False when the connection ends before."""
        deadline = time.monotonic() + self._limits.network_timeout_seconds
        while len(self._unread) < count:
            piece = connection.recv(_LOOK_BYTES)
            if not piece:
                return False
            self._unread += piece
            if len(self._unread) < count and time.monotonic() > deadline:
                self._refuse("PDU did not end in time", seconds=self._limits.network_timeout_seconds)
        return True

    def _received(self, incoming: Incoming, connection: socket.socket) -> bool:
        """Read on in the data set and serve its request when it is complete; False where the state machine must go on."""
        try:
            count = self._read(connection, incoming.room())
            self._gather(connection, count is not None)
            if count is None:
                self._in_time()
                return True
            total = self._under_way(count)
            if incoming.received(count):
                self._pdu_due = time.monotonic() + self._limits.network_timeout_seconds
                self.assoc.dul._idle_timer.restart()
            else:
                self._in_time()
            limit = self._limits.maximum_instance_bytes * INSTANCES_UNDER_WAY
            if total > limit:
                raise Malformed("too much under way from all peers", bytes=total, limit=limit)
        except Malformed as error:
            self._refuse(error.event, **error.fields)
        if incoming.complete and self._keep is not None:
            self._serve(incoming, connection, self._keep)
        elif count == 0 or incoming.other:  # the end of the connection, a release, an abort
            self._unread, self._incoming = incoming.rest, None
            self._gather(connection, False)
            self._forget()
            return False
        return True

    def _in_time(self) -> None:
        if time.monotonic() > self._pdu_due:
            self._refuse("PDU did not end in time", seconds=self._limits.network_timeout_seconds)

    def _read(self, connection: socket.socket, room: Sequence[memoryview]) -> int | None:
        """Read what there is of the stream, beginning with what was read ahead; 0 at its end, None where there is nothing now."""
        if self._unread:
            count = min(len(self._unread), len(room[0]))
            room[0][:count] = self._unread[:count]
            del self._unread[:count]
            return count
        if isinstance(connection, ssl.SSLSocket):
            return connection.recv_into(room[0])
        try:  # a socket with a time limit would ask once more whether there is something
            return os.readv(connection.fileno(), room)
        except BlockingIOError:
            return None

    def _serve(self, incoming: Incoming, connection: socket.socket, keep: Keep) -> None:
        """Keep what has come, and answer."""
        self._unread, self._incoming = incoming.rest, None
        self._gather(connection, False)
        if self._unread[:1] == bytes([P_DATA]):  # we negotiate no asynchronous operations (PS3.7 D.3.3.3)
            self._refuse("requests sent without waiting for responses", limit=1)
        idle = self.assoc.dul._idle_timer
        idle.stop()  # the peer waits for us
        with incoming.file as file:
            status, comment = keep(self._arrival(incoming, file))
        self._lender.give_back(incoming.pages)
        self._forget()
        connection.sendall(response(incoming.request, incoming.context_id, status, comment))
        self.answering = False
        idle.restart()

    def _arrival(self, incoming: Incoming, file: memoryview) -> Arrival:
        requestor: Any = self.assoc.requestor
        return Arrival(
            SOPClassUID=incoming.request.AffectedSOPClassUID,
            SOPInstanceUID=incoming.request.AffectedSOPInstanceUID,
            transfer_syntax=self.assoc._accepted_cx[incoming.context_id].transfer_syntax[0],
            calling_ae_title=requestor.ae_title,
            called_ae_title=requestor.primitive.called_ae_title,
            address=requestor.address,
            file=file,
            data_at=incoming.data_at,
            digest=incoming.digest,
        )

    def _under_way(self, count: int) -> int:
        """Count bytes of the message under way; return how many all messages have."""
        with self._counting:
            self._message_bytes += count
        return self._places.under_way(count)

    def _forget(self) -> None:
        """Count the message under way no more: it is answered, or its connection over."""
        with self._counting:
            counted, self._message_bytes = self._message_bytes, 0
        self._places.under_way(-counted)

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; a P-DATA of ours answers the request, an A-ASSOCIATE-AC also what was taken out of the offer."""
        super().send(self.offer.answered(bytestream) if bytestream[:1] == bytes([ASSOCIATE_AC]) else bytestream)
        if bytestream[:1] == bytes([P_DATA]):
            self.answering = False

    def close(self) -> None:
        """Close the connection and forget what was under way on it."""
        self._forget()
        self._incoming = None
        self._news.set()
        super().close()
        self._wake.close()
        self._woken.close()

    def _take(self, count: int) -> bytearray:
        """Read so many bytes; fewer when the connection ends."""
        data = bytearray(count)
        done = min(count, len(self._unread))
        data[:done] = self._unread[:done]
        del self._unread[:done]
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
                    if done or count > 6:
                        log.info("connection ended inside a PDU", peer=self._peer, bytes=done, of=count)
                    elif not self._parting:  # after a release the peer closes, PS3.8 9.2.3
                        log.info("connection closed without release", peer=self._peer)
                    break
                done += received
                if done < count and time.monotonic() > deadline:
                    self._refuse("PDU did not end in time", seconds=self._limits.network_timeout_seconds)
        return data

    def _judge(self, pdu_type: int, length: int) -> None:
        self._parting = pdu_type in _PARTING
        if pdu_type == P_DATA:
            # Some peers count the six bytes of the header against the maximum length (PS3.8 D.1 does not).
            limit = self._limits.maximum_pdu_size + _SLACK
            self.answering = True
        else:
            limit = MAXIMUM_REQUEST_BYTES if pdu_type == ASSOCIATE_RQ else 1024
        if not 1 <= pdu_type <= 7:
            self._refuse("unknown PDU type", pdu_type=pdu_type)
        if length > limit:
            self._refuse("PDU longer than the limit", pdu_type=pdu_type, bytes=length, limit=limit)

    def _count(self, body: bytearray) -> None:
        """Count a P-DATA-TF for the state machine, and look at its fragments (PS3.8 9.3.5, E.2)."""
        total = self._under_way(len(body))
        position, ended = 0, False
        while position + 6 <= len(body):
            length, context_id, control = FRAGMENT_HEADER.unpack_from(body, position)
            if length < 2 or position + 4 + length > len(body):
                self._refuse("fragment does not fit into its PDU", bytes=length, limit=len(body) - position - 4)
            if context_id not in self.assoc._accepted_cx:
                self._refuse("fragment for a presentation context that was not accepted", context=context_id)
            ended = ended or bool(control & LAST)
            position += 4 + length
        limit = self._limits.maximum_instance_bytes
        if self._message_bytes > limit + MAXIMUM_REQUEST_BYTES:
            self._refuse("data set longer than the limit", bytes=self._message_bytes, limit=limit)
        if total > limit * INSTANCES_UNDER_WAY:
            self._refuse("too much under way from all peers", bytes=total, limit=limit * INSTANCES_UNDER_WAY)
        if ended:
            self._forget()
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
