"""Listen for associations and let in who may come.

pynetdicom gives every connection two threads and a place among the associations as soon as it is made. Here the A-ASSOCIATE-RQ
is read and judged first, under one deadline and a bound of its size; silent connections wait in places of their own, where the
oldest makes room for the newest. Who is not let in is told why, and the log says it too.
"""

import ipaddress
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from pynetdicom import AE, _config
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from service.conformance import CONTEXT_UNKNOWN, FULL, STOPPING, VERSION_UNKNOWN, Rejection
from service.log import get_logger, whereabouts
from service.receiving.memory import Lender
from service.receiving.offer import Offer
from service.receiving.places import ECHO_RESERVE, MAXIMUM_PENDING, Caller, Places
from service.receiving.transport import (
    ABORT_INVALID,
    ABORT_UNEXPECTED,
    ASSOCIATE_RQ,
    MAXIMUM_REQUEST_BYTES,
    Checkpoint,
    GuardedSocket,
    Keep,
)
from service.settings import Limits
from service.trust.tls import HANDSHAKE_RECORD, ServerTls, Shown

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"

_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False

LEFT_SECONDS: Final = 0.002  # for a less busy process to take a connection
LONGEST_LEFT_SECONDS: Final = (
    0.02  # then it is taken all the same: on a busy machine each wait takes far longer than asked for
)

STALE_SECONDS: Final = 1.0  # what was left longer ago was another connection, which a sibling took

log = get_logger()


class _Handler(RequestHandler):
    """Read and judge an A-ASSOCIATE-RQ; only an admitted one becomes an Association."""

    server: "GuardedServer"

    def handle(self) -> None:
        """Serve one connection from its first byte to its end."""
        accepted: socket.socket = self.request
        connection: socket.socket | None = accepted
        address = plain(str(self.client_address[0]))
        limits = self.server.places.limits
        deadline = time.monotonic() + limits.association_timeout_seconds
        try:
            with suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self.server.tls is not None:
                connection = self._secure(accepted, self.server.tls.context(), address, deadline)
            pdu = connection and self._read_request(connection, address, deadline)
            if connection and pdu:
                offer = Offer.of(bytes(pdu), self.server.supported)
                caller = self._parse(connection, offer, address)
                if caller:
                    self._associate(accepted, connection, offer, caller)
        except OSError as error:
            log.info("connection failed", address=address, error=type(error).__name__)
        finally:
            self.server.places.left(accepted)
            with suppress(OSError):
                (connection or accepted).close()

    def _secure(
        self, accepted: socket.socket, context: ssl.SSLContext, address: str, deadline: float
    ) -> ssl.SSLSocket | None:
        """Shake hands over TLS before the deadline; None when nothing came of it, and the log says why."""
        limit = self.server.places.limits.association_timeout_seconds
        try:
            accepted.settimeout(max(deadline - time.monotonic(), 0.001))
            first = accepted.recv(1, socket.MSG_PEEK)
            if not first:
                return None
            if first[0] != HANDSHAKE_RECORD:
                spoken = "plain DICOM" if first[0] == ASSOCIATE_RQ else "no TLS"
                log.warning(f"peer speaks {spoken} on the TLS port", address=address, first_byte=first[0])
                if first[0] == ASSOCIATE_RQ:
                    _say_and_close(accepted, ABORT_UNEXPECTED)
                return None
            # The accepted socket gives its descriptor away here.
            connection = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        except TimeoutError:
            log.info("no TLS handshake in time", address=address, limit_seconds=limit)
            return None
        try:
            if not self.server.places.secured(accepted, connection):
                raise ConnectionAbortedError
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.do_handshake()
        except TimeoutError:
            log.info("no TLS handshake in time", address=address, limit_seconds=limit)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or (error.reason or type(error).__name__)
            log.warning("TLS handshake failed", address=address, reason=reason.replace("_", " ").lower())
            self.server.refused("", address, "tls-handshake")
        except OSError as error:
            log.info("connection ended inside the TLS handshake", address=address, error=type(error).__name__)
        else:
            return connection
        with suppress(OSError):
            connection.close()
        return None

    def _associate(self, accepted: socket.socket, connection: socket.socket, offer: Offer, caller: Caller) -> None:
        places = self.server.places
        peer = f"{caller.calling_ae_title}@{caller.address}"
        rejection = STOPPING if self.server.stopping else self.server.admit(caller)
        if rejection is not None:
            self._reject(connection, caller, rejection)
            return
        with places.associate(caller, self.server.maximum_of(caller)) as place:
            if not place:
                self._reject(connection, caller, FULL)
                return
            places.left(accepted)
            secured = {"tls": connection.version()} if isinstance(connection, ssl.SSLSocket) else {}
            connection.settimeout(places.limits.network_timeout_seconds)
            self.request = connection
            association = self._create_association()
            association.dul.event_queue.get()  # the plain socket made there has announced itself; the guarded one does again
            guarded = GuardedSocket(
                association, connection, offer, places, peer, keep=self.server.keep, lender=self.server.lender
            )
            association.dul.socket = guarded
            # An attribute of this object alone: pynetdicom has no hook between the PDU and the message.
            vars(association.dimse)["receive_primitive"] = guarded.tolerant(association.dimse.receive_primitive)
            to_send = association.dul.to_provider_queue
            vars(to_send)["put"] = guarded.waking(to_send.put)
            machine = association.dul.state_machine
            vars(machine)["do_action"] = guarded.crossing(machine.do_action)
            association._reactor_checkpoint = Checkpoint(association, guarded)
            started = time.monotonic()
            association.start()
            association.join()
            guarded.close()
            log.info("association ended", peer=peer, seconds=round(time.monotonic() - started, 3), **secured)

    def _reject(self, connection: socket.socket, caller: Caller, rejection: Rejection) -> None:
        log.warning(
            "association rejected",
            code=rejection.code,
            reason=rejection.meaning,
            calling_ae_title=caller.calling_ae_title,
            called_ae_title=caller.called_ae_title,
            address=caller.address,
            open=self.server.places.associations.total(),
        )
        if rejection not in (FULL, STOPPING):  # these say nothing about the caller
            self.server.refused(caller.calling_ae_title, caller.address, rejection.code)
        _say_and_close(connection, bytes([3, 0, 0, 0, 0, 4, 0, rejection.result, rejection.source, rejection.reason]))

    def _read_request(self, connection: socket.socket, address: str, deadline: float) -> bytearray | None:
        """Return the first PDU, or None when it is none of ours; the peer is told where it can understand it."""
        pdu = bytearray()
        wanted = 6
        while len(pdu) < wanted:
            left = deadline - time.monotonic()
            try:
                connection.settimeout(max(left, 0.001))
                piece = connection.recv(wanted - len(pdu)) if left > 0 else b""
            except TimeoutError:
                piece = b""
            if not piece:
                if left <= 0 or time.monotonic() >= deadline:
                    limit = self.server.places.limits.association_timeout_seconds
                    log.info("no association request in time", address=address, bytes=len(pdu), limit_seconds=limit)
                elif pdu:
                    log.info("connection ended inside a PDU", peer=address, bytes=len(pdu), of=wanted)
                return None
            pdu += piece
            if pdu[0] == HANDSHAKE_RECORD and self.server.tls is None:
                log.warning("peer speaks TLS on the plain port", address=address)
                return None
            if pdu[0] != ASSOCIATE_RQ:
                log.warning("peer does not begin with an association request", address=address, first_byte=pdu[0])
                _say_and_close(connection, ABORT_UNEXPECTED)
                return None
            if len(pdu) == 6:
                length = int.from_bytes(pdu[2:6], "big")
                if length > MAXIMUM_REQUEST_BYTES:
                    log.warning(
                        "association request longer than the limit",
                        address=address,
                        bytes=length,
                        limit=MAXIMUM_REQUEST_BYTES,
                    )
                    _say_and_close(connection, ABORT_INVALID)
                    return None
                wanted = 6 + length
        return pdu

    def _parse(self, connection: socket.socket, offer: Offer, address: str) -> Caller | None:
        request = A_ASSOCIATE_RQ()
        try:
            request.decode(offer.request)
            offered = (str(item.abstract_syntax) for item in request.presentation_context)
            caller = Caller(
                called_ae_title=request.called_ae_title.strip(),
                calling_ae_title=request.calling_ae_title.strip(),
                address=address,
                abstract_syntaxes=(*offered, *offer.refused.values()),
                certificate=Shown.of(connection) if isinstance(connection, ssl.SSLSocket) else None,
            )
            if not all((item.presentation_context_id or 0) % 2 for item in request.presentation_context):
                raise ValueError("a presentation context without an odd number (PS3.8 9.3.2.2)")
            version, context = request.protocol_version, str(request.application_context_name)
        except Exception as error:  # noqa: BLE001  # whatever a parser makes of hostile bytes, it is the same outcome
            log.warning("association request cannot be parsed", address=address, error=type(error).__name__)
            _say_and_close(connection, ABORT_INVALID)
            return None
        for wrong, rejection in ((not version & 1, VERSION_UNKNOWN), (context != APPLICATION_CONTEXT, CONTEXT_UNKNOWN)):
            if wrong:
                log.warning("association rejected", code=rejection.code, reason=rejection.meaning, address=address)
                _say_and_close(
                    connection, bytes([3, 0, 0, 0, 0, 4, 0, rejection.result, rejection.source, rejection.reason])
                )
                return None
        return caller


class _Shared(list[PresentationContext]):
    """Contexts that every association may share, as none changes them; pynetdicom would copy 90 UIDs for each."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


class GuardedServer(ThreadedAssociationServer):
    """A listener whose connections are guarded; see the module.

    Parameters
    ----------
    places
        Where connections are counted.
    admit
        Judges who may associate; None admits.
    maximum_of
        Says how many associations a caller may have at once; None for as many as there are places.
    keep
        Takes what a C-STORE brings; None leaves it to a handler of EVT_C_STORE.
    tls
        Speaks TLS and nothing else; None for plain DICOM.
    refused
        Is told who is refused, in the thread of the connection: calling AE title (empty before it is known), address, code.
    """

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        handlers: Sequence[tuple[Any, Callable[..., Any]]],
        *,
        places: Places,
        admit: Callable[[Caller], Rejection | None],
        maximum_of: Callable[[Caller], int | None],
        keep: Keep | None,
        tls: ServerTls | None,
        refused: Callable[[str, str, str], None],
    ) -> None:
        self.places = places
        self.refused = refused
        self.keep = keep
        self.lender = Lender()
        self.supported = frozenset(str(context.abstract_syntax) for context in ae.supported_contexts)
        self.admit = admit
        self.maximum_of = maximum_of
        self.tls = tls
        self.stopping = False
        self._left_since: float | None = None
        super().__init__(
            ae, address, ae.ae_title, ae.supported_contexts, evt_handlers=list(handlers), request_handler=_Handler
        )
        self.contexts = _Shared(self.contexts)
        if places.siblings is not None and self.socket is not None:
            self.socket.setblocking(False)  # a sibling may be faster: accept must not wait for the next connection

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection, unless a sibling with fewer of them is about to."""
        if self._leaves_it():
            time.sleep(LEFT_SECONDS)
            raise BlockingIOError("left to a process that has fewer connections")
        accepted = super().get_request()
        accepted[0].setblocking(True)
        return accepted

    def _leaves_it(self) -> bool:
        """Whether to leave the connection that waits to a less busy sibling for now."""
        siblings = self.places.siblings
        least = None if siblings is None else siblings.least_load()
        if least is None or self.places.load() <= least:
            self._left_since = None
            return False
        now = time.monotonic()
        if self._left_since is None or now - self._left_since > STALE_SECONDS:
            self._left_since = now
        if now - self._left_since < LONGEST_LEFT_SECONDS:
            return True
        self._left_since = None
        return False

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Make room for the newest connection: the longest silent one goes."""
        leaving = self.places.wait(request, plain(str(client_address[0])))
        if leaving is not None:
            log.warning("silent connection closed to make room", limit=MAXIMUM_PENDING, address=leaving.address)
            with suppress(OSError):
                leaving.connection.shutdown(socket.SHUT_RDWR)
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong in one connection; the listener goes on."""
        error = sys.exception()
        log.error("connection failed", address=client_address[0], **(whereabouts(error) if error else {}))


class Listener:
    """A guarded server in a thread of its own, from `start` to `stop`.

    Parameters
    ----------
    tls
        Speaks TLS and nothing else; None for plain DICOM.
    places
        Shared with another listener; None for places of its own.
    refused
        As of `GuardedServer`.
    """

    def __init__(
        self,
        ae: AE,
        host: str,
        port: int,
        *,
        limits: Limits,
        admit: Callable[[Caller], Rejection | None],
        handlers: Sequence[tuple[Any, Callable[..., Any]]],
        keep: Keep | None = None,
        maximum_of: Callable[[Caller], int | None] = lambda _caller: None,
        tls: ServerTls | None = None,
        places: Places | None = None,
        refused: Callable[[str, str, str], None] = lambda _calling, _address, _code: None,
    ) -> None:
        ae.maximum_pdu_size = limits.maximum_pdu_size
        ae.maximum_associations = limits.maximum_associations + ECHO_RESERVE + MAXIMUM_PENDING  # `Places` is the judge
        ae.acse_timeout = limits.association_timeout_seconds
        ae.network_timeout = limits.network_timeout_seconds
        ae.dimse_timeout = limits.network_timeout_seconds
        self.server = GuardedServer(
            ae,
            (host, port),
            handlers,
            places=places or Places(limits),
            admit=admit,
            maximum_of=maximum_of,
            keep=keep,
            tls=tls,
            refused=refused,
        )
        ae._servers.append(self.server)
        self.port: int = self.server.server_address[1]
        self._thread = threading.Thread(
            target=self.server.serve_forever, args=(0.1,), name=f"listener {self.port}", daemon=True
        )

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop(self, grace_seconds: float = 10) -> None:
        """Accept no more, let messages under way end, abort associations as soon as they are between two messages."""
        self.server.stopping = True
        self.server.shutdown()
        deadline = time.monotonic() + grace_seconds
        while open_associations := [a for a in self.server.active_associations if a.is_alive()]:
            late = time.monotonic() > deadline
            for association in open_associations:
                guarded = association.dul.socket
                if late or not getattr(guarded, "answering", False):
                    with suppress(OSError, AttributeError):
                        association.abort()
            if time.monotonic() > deadline + 2:
                log.warning("associations left behind at the end", open=len(open_associations))
                break
            time.sleep(0.02)
        self._thread.join(timeout=2)


def plain(address: str) -> str:
    """Write an IPv4 address that a dual-stack listener sees as ::ffff:a.b.c.d as what it is."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _say_and_close(connection: socket.socket, pdu: bytes) -> None:
    """Send the last PDU and wait shortly for the peer to leave, so that a reset does not overtake it."""
    with suppress(OSError):
        connection.settimeout(1)
        connection.sendall(pdu)
        connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline and connection.recv(65_536):
            pass
