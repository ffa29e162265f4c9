"""Request an association with a PACS, plain or over TLS, and say of one that does not come about what has to change (PS3.8 9.3)."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID
from pynetdicom import AE, build_context

from service.associations import leave_in_silence
from service.errors import CarpusError, Permanent, Retryable
from service.settings import Destination, Settings
from service.trust.tls import ClientTls, explain

# PS3.8 table 9-21 by (source, diagnostic): what an administrator has to change.
REJECTIONS: Final[dict[tuple[int, int], tuple[str, str]]] = {
    (1, 2): (
        "application-context-refused",
        "the peer is not a DICOM storage service: correct the destination's host and port",
    ),
    (1, 3): ("calling-ae-refused", "in the PACS, register our AE title {calling} with the address of this machine"),
    (1, 7): (
        "called-ae-refused",
        "correct the destination's ae_title: the PACS at {host}:{port} is not called {called}",
    ),
    (2, 2): ("protocol-version-refused", "the peer speaks another version of the upper layer protocol"),
}
PERMANENT_REJECTION: Final = 1


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer is, what it is called and how it is spoken to."""

    ae_title: str
    host: str
    port: int
    tls: ClientTls | None = None  # None: plain DICOM


def address_of(destination: Destination, settings: Settings) -> Address:
    """Return the address of a destination as the settings describe it."""
    tls = ClientTls.of(destination.tls, settings.dicom_tls)
    return Address(destination.ae_title, destination.host, destination.port, tls)


@contextmanager
def associate(
    address: Address,
    contexts: Sequence[tuple[UID, UID]],
    *,
    calling_ae_title: str,
    timeout_seconds: float = 30,
    maximum_pdu_size: int = 131_072,
    ends_after_seconds: float | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Hold an association for the block, plain or over TLS as the address says; released at the end.

    A host name that stands for several addresses is called at each in turn until one takes the connection.

    Parameters
    ----------
    contexts
        (abstract syntax, transfer syntax) of each presentation context to propose.
    ends_after_seconds
        Then it is aborted, whatever the peer is sending: a peer that goes on answering is never silent for `timeout_seconds`.
    options
        Go to pynetdicom's `AE.associate`: `ext_neg`, `evt_handlers`.

    Raises
    ------
    Retryable, Permanent
        When no association came about, with the cause and what to change.
    """
    places = _places(address)
    ae = AE(ae_title=calling_ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_seconds
    ae.connection_timeout = timeout_seconds / len(places)
    ae.maximum_pdu_size = maximum_pdu_size
    requested = [build_context(sop_class, syntax) for sop_class, syntax in contexts]
    secure = address.tls.context() if address.tls else None
    for place in places:
        peer = ae.associate(
            place,
            address.port,
            contexts=requested,
            ae_title=address.ae_title,
            max_pdu=maximum_pdu_size,
            tls_args=(secure, address.host) if secure else None,
            **options,
        )
        # pynetdicom enters our own port when the connection is there; a handshake that failed had somebody at the other end too.
        ours = peer.requestor.address_info
        if (ours and ours.port) or (secure and secure.faults):
            break
    if not peer.is_established:
        if secure and secure.faults:
            raise explain(secure.faults[0], f"{address.ae_title} at {address.host}:{address.port}")
        raise _no_association(peer, address, calling_ae_title, requested)
    leave_in_silence(peer)
    end = threading.Timer(ends_after_seconds or 0, _end, [peer])
    end.daemon = True
    if ends_after_seconds is not None:
        end.start()
    try:
        yield peer
    finally:
        end.cancel()
        if peer.is_established:
            peer.release()


def _places(address: Address) -> list[str | tuple[str, int, int]]:
    """Return all addresses of the host as pynetdicom takes them; given the name, it would call the first of IPv4 and no other.

    IPv4 stays the first to be called: the PACS may know us by our address of that family.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: of the codec idna, for what is no host name
        raise Retryable(
            f"the host {address.host} of {address.ae_title} cannot be resolved ({error})",
            code="peer-unreachable",
            next_action="correct the destination's host, or see whether the name server of this machine answers",
        ) from error
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return [str(to[0]) if len(to) == 2 else (str(to[0]), int(to[2]), int(to[3])) for *_, to in found]


def _end(peer: Any) -> None:
    """Abort, and wake whoever waits for the next answer."""
    peer.abort()
    peer.dimse.msg_queue.put((None, None))


def _no_association(peer: Any, address: Address, calling_ae_title: str, requested: Sequence[Any]) -> CarpusError:
    where = f"{address.ae_title} at {address.host}:{address.port}"
    if peer.is_rejected:
        answer = peer.acceptor.primitive
        code, action = REJECTIONS.get((answer.result_source, answer.diagnostic), ("association-rejected", ""))
        text = f"{where} rejected the association: {answer.reason_str}"
        if answer.result == PERMANENT_REJECTION:
            action = action or "ask the PACS administrator for its log of this association"
            names = {
                "calling": calling_ae_title,
                "called": address.ae_title,
                "host": address.host,
                "port": address.port,
            }
            return Permanent(text, code=code, next_action=action.format(**names))
        return Retryable(text, code=code, next_action="none: the PACS asked to be called again")
    if peer.acceptor.primitive is not None and not peer.accepted_contexts:
        # pynetdicom aborts by itself when not one context was accepted.
        classes = sorted({UID(context.abstract_syntax).name for context in requested})
        return Permanent(
            f"{where} accepted none of: {', '.join(classes)}",
            code="sop-class-refused",
            next_action=f"in the PACS, allow these SOP classes for our AE title: {', '.join(classes)}",
        )
    return Retryable(
        f"{where} does not answer, or closed the connection before the association",
        code="peer-unreachable",
        next_action="check that the PACS runs, the destination's host and port, and whether it wants TLS",
    )
