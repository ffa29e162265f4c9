"""Speak Storage Commitment, Push Model (PS3.4 J): ask a PACS to commit, read its report, and report to who asks us.

A report may come on the association of the request, on another one that is open, or days later on a new one; the handler here is
the same for all of them.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]  # made at import time

from service.errors import CarpusError, Permanent, Retryable
from service.log import get_logger
from service.sending.requestor import Address, associate
from service.sending.scu import status_of

PUSH_MODEL: Final = UID(StorageCommitmentPushModel)
WELL_KNOWN_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")  # PS3.4 J.3.2: the instance every request and report names
REQUEST: Final = 1  # PS3.4 J.3.2: action type
ALL_KEPT, SOME_FAILED = 1, 2  # PS3.4 J.3.3: event types
CONTEXTS: Final = tuple((PUSH_MODEL, syntax) for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian))
SETTLED_SECONDS: Final = 0.5  # between two questions whether the report came on another association
ANSWERED_SECONDS: Final = 0.01
RESPONSE_SECONDS: Final = 10.0  # that the response to a report is awaited

# PS3.7 C.4.2, C.5: what a report is answered with.
SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
INVALID_ARGUMENT: Final = 0x0115
RESOURCE_LIMITATION: Final = 0x0213
MOST_INFORMATION_BYTES: Final = (
    2 * 1024**2
)  # of one request or report, about 16,000 references; each is a data set to parse
NOT_AUTHORISED: Final = 0x0124

Reference = tuple[str, str]  # SOPClassUID, SOPInstanceUID
Handler = tuple[Any, Callable[[Any], Any]]

log = get_logger()


@dataclass(frozen=True, slots=True)
class Report:
    """What an N-EVENT-REPORT says."""

    transaction_uid: str
    committed: tuple[str, ...]  # SOP Instance UIDs
    failed: tuple[tuple[str, int | None], ...]  # with their FailureReason


def request(
    address: Address,
    references: Sequence[Reference],
    transaction_uid: str,
    *,
    calling_ae_title: str,
    timeout_seconds: float,
    settled: Callable[[], bool],
    hold_seconds: float,
    handlers: Sequence[Handler] = (),
) -> None:
    """Ask a peer to commit to keep the instances, and hold the association a moment for a report on it.

    Parameters
    ----------
    settled
        Tells whether the report has come, on whatever association; then it is not waited for any longer.
    handlers
        For the report, should it come on this association.

    Raises
    ------
    Retryable, Permanent
        When the peer did not take the request; `sop-class-refused` says that it does not offer the service.
    """
    # Set while a report has come and has no response yet: releasing then would overtake the response.
    answering, answered = threading.Event(), threading.Event()

    def has_answered(_association: Any) -> None:
        answering.clear()
        answered.set()

    watches = [
        (evt.EVT_DIMSE_RECV, _begins(answering)),
        *after_response("N_EVENT_REPORT_RSP", has_answered),
    ]
    with associate(
        address,
        CONTEXTS,
        calling_ae_title=calling_ae_title,
        timeout_seconds=timeout_seconds,
        evt_handlers=[*handlers, *watches],
    ) as peer:
        if not peer.accepted_contexts:
            raise not_offered(address)
        asked = Dataset()
        asked.TransactionUID = transaction_uid
        asked.ReferencedSOPSequence = [_reference(*each) for each in references]
        answer, _ = peer.send_n_action(asked, REQUEST, PUSH_MODEL, WELL_KNOWN_INSTANCE)
        status = status_of(answer)
        if status != SUCCESS:
            raise Permanent(
                f"{address.ae_title} refused to commit with 0x{status:04X}",
                code="commitment-refused",
                next_action="see in the PACS why it refuses storage commitment to our AE title, or set confirm: query",
            )
        end = time.monotonic() + hold_seconds
        while peer.is_established and (left := end - time.monotonic()) > 0:
            answered.clear()
            if settled():
                break
            answered.wait(min(SETTLED_SECONDS, left))
        end = time.monotonic() + timeout_seconds
        while peer.is_established and time.monotonic() < end and answering.is_set():
            answered.wait(ANSWERED_SECONDS)


def report(
    address: Address,
    transaction_uid: str,
    committed: Sequence[Reference],
    failed: Sequence[tuple[str, str, int]],
    *,
    calling_ae_title: str,
    timeout_seconds: float,
) -> None:
    """Report on an association of our own, in the role of the SCP (PS3.4 J.3.3, PS3.7 D.3.3.4).

    Raises
    ------
    Retryable, Permanent
        When the peer did not take the report.
    """
    with associate(
        address,
        CONTEXTS,
        calling_ae_title=calling_ae_title,
        timeout_seconds=timeout_seconds,
        ext_neg=[build_role(PUSH_MODEL, scp_role=True)],
    ) as peer:
        if not peer.accepted_contexts:
            raise not_offered(address)
        report_on(peer, transaction_uid, committed, failed)


def report_on(
    association: Any, transaction_uid: str, committed: Sequence[Reference], failed: Sequence[tuple[str, str, int]]
) -> None:
    """Report on an association that is open.

    Raises
    ------
    Retryable
        When the peer did not take the report.
    """
    said = Dataset()
    said.TransactionUID = transaction_uid
    if committed:
        said.ReferencedSOPSequence = [_reference(*each) for each in committed]
    if failed:
        said.FailedSOPSequence = []
        for sop_class, instance, reason in failed:
            item = _reference(sop_class, instance)
            item.FailureReason = reason
            said.FailedSOPSequence.append(item)
    kind = SOME_FAILED if failed else ALL_KEPT
    # While we wait, the association answers nothing else: a peer that leaves now must not wait with us.
    association.dimse_timeout = min(association.dimse_timeout or RESPONSE_SECONDS, RESPONSE_SECONDS)
    try:
        answer, _ = association.send_n_event_report(said, kind, PUSH_MODEL, WELL_KNOWN_INSTANCE)
    except (RuntimeError, ValueError) as error:  # the association ended, or has no context for it
        raise Retryable("the association ended before the report", code="association-aborted") from error
    status = status_of(answer)
    if status != SUCCESS:
        raise Retryable(f"the peer answered the report with 0x{status:04X}", code=f"status-{status:04x}")


def too_large(information: BytesIO | None) -> bool:
    """Whether what came with a request is more than is parsed; the log says so."""
    size = 0 if information is None else information.getbuffer().nbytes
    if size > MOST_INFORMATION_BYTES:
        log.warning("commitment message larger than the limit", bytes=size, limit=MOST_INFORMATION_BYTES)
    return size > MOST_INFORMATION_BYTES


def receive(take: Callable[[str, Report], int]) -> Handler:
    """Return the handler of N-EVENT-REPORT; `take` gets the peer's AE title and the report, and returns the status."""

    def handle(event: Any) -> tuple[int, None]:
        requestor, acceptor = event.assoc.requestor, event.assoc.acceptor
        # Who reports is the other side of the association, whichever side opened it.
        peer = acceptor.ae_title if event.assoc.is_requestor else requestor.ae_title
        if too_large(event.request.EventInformation):
            return RESOURCE_LIMITATION, None
        try:
            said = parse_report(event.event_information)
        except CarpusError:
            return INVALID_ARGUMENT, None
        return take(peer.strip(), said), None

    return (evt.EVT_N_EVENT_REPORT, handle)


def after_response(message: str, then: Callable[[Any], None]) -> list[Handler]:
    """Return handlers that call `then` with the association once a response of this kind has been sent.

    pynetdicom tells of a message before it is sent, and of each PDU afterwards; neither alone says when a response is on its way.
    """
    told: set[Any] = set()

    def about_to_send(event: Any) -> None:
        if type(event.message).__name__ == message:
            told.add(event.assoc)

    def has_sent(event: Any) -> None:
        if event.assoc in told and type(event.pdu).__name__ == "P_DATA_TF":
            told.discard(event.assoc)
            then(event.assoc)

    return [(evt.EVT_DIMSE_SENT, about_to_send), (evt.EVT_PDU_SENT, has_sent)]


def parse_report(said: Dataset) -> Report:
    """Read an N-EVENT-REPORT's information, tolerant of what is missing.

    Raises
    ------
    Permanent
        When it names no transaction.
    """
    return Report(
        _transaction(said),
        tuple(str(item.get("ReferencedSOPInstanceUID", "")) for item in said.get("ReferencedSOPSequence") or ()),
        tuple(
            (str(item.get("ReferencedSOPInstanceUID", "")), _reason(item))
            for item in said.get("FailedSOPSequence") or ()
        ),
    )


def parse_request(asked: Dataset) -> tuple[str, list[Reference]]:
    """Read an N-ACTION's information: transaction UID and what is to be kept.

    Raises
    ------
    Permanent
        When it names no transaction or no instance.
    """
    references = [
        (str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in asked.get("ReferencedSOPSequence") or ()
    ]
    if not references:
        raise Permanent("a storage commitment request names no instance", code="empty-request")
    return _transaction(asked), references


def not_offered(address: Address) -> Permanent:
    """Return the error of a peer that gives Storage Commitment no presentation context."""
    return Permanent(
        f"{address.ae_title} does not offer {PUSH_MODEL.name}",
        code="sop-class-refused",
        next_action=f"in the PACS, allow {PUSH_MODEL.name} ({PUSH_MODEL}) for our AE title",
    )


def _begins(answering: threading.Event) -> Callable[[Any], None]:
    def begin(event: Any) -> None:
        if type(event.message).__name__ == "N_EVENT_REPORT_RQ":
            answering.set()

    return begin


def _transaction(ds: Dataset) -> str:
    uid = str(ds.get("TransactionUID") or "")
    if not uid:
        raise Permanent("a storage commitment message names no TransactionUID", code="no-transaction")
    return uid


def _reason(item: Dataset) -> int | None:
    value = item.get("FailureReason")
    return int(value) if isinstance(value, int) else None


def _reference(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = instance
    return item
