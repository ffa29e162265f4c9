"""Ask a PACS what it has (C-FIND, Study Root, PS3.4 C): the read-back where nobody commits.

Tolerant of what answers leave out (field lesson 23): an answer counts by its SOPInstanceUID, whatever else it lacks.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from service.errors import CarpusError, Permanent, Retryable
from service.sending.requestor import Address, associate

STUDY_ROOT_FIND: Final = UID(StudyRootQueryRetrieveInformationModelFind)
STUDY_ROOT_MOVE: Final = UID(StudyRootQueryRetrieveInformationModelMove)
CONTEXTS: Final = tuple((STUDY_ROOT_FIND, syntax) for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian))
MOVE_DESTINATION_UNKNOWN: Final = 0xA801  # PS3.4 C.4.2.1.5
PENDING: Final = (0xFF00, 0xFF01)  # PS3.4 C.4.1.1.4
# PS3.4 C.4.1.1.4: failures that the same question meets again.
PERMANENT: Final[Mapping[int, str]] = {
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xA900: "identifier does not match SOP class",
}

Series = tuple[str, str]  # StudyInstanceUID, SeriesInstanceUID


def instances(
    address: Address, series: Iterable[Series], *, calling_ae_title: str, timeout_seconds: float
) -> dict[Series, frozenset[str]]:
    """Return the SOP Instance UIDs that a peer has of each series, asked over one association.

    Raises
    ------
    Retryable, Permanent
        When the peer cannot be asked; `sop-class-refused` says that it does not offer the service.
    """
    found = {}
    asked = list(series)
    with associate(
        address,
        CONTEXTS,
        calling_ae_title=calling_ae_title,
        timeout_seconds=timeout_seconds,
        ends_after_seconds=timeout_seconds * (1 + len(asked)),
    ) as peer:
        if not peer.accepted_contexts:
            raise not_offered(address)
        for study_uid, series_uid in asked:
            question = Dataset()
            question.QueryRetrieveLevel = "IMAGE"
            question.StudyInstanceUID = study_uid
            question.SeriesInstanceUID = series_uid
            question.SOPInstanceUID = ""  # universal: some archives do not match lists of UIDs
            answers = ask(peer, question, address)
            found[study_uid, series_uid] = frozenset(str(each.get("SOPInstanceUID", "")) for each in answers)
    return found


def ask(peer: Any, question: Dataset, address: Address) -> list[Dataset]:
    """Send one C-FIND on an open association; return every answer.

    Raises
    ------
    Retryable, Permanent
        When the answers ended with a failure, or not at all.
    """
    answers = []
    for status, identifier in peer.send_c_find(question, STUDY_ROOT_FIND):
        if "Status" not in status:
            raise Retryable(
                f"{address.ae_title} aborted the query or did not answer in time", code="association-aborted"
            )
        if status.Status in PENDING:
            answers.append(identifier or Dataset())
        elif status.Status != 0x0000:
            raise _refused(int(status.Status), address)
    return answers


def move(
    address: Address, series: Series, to_ae_title: str, *, here: str, calling_ae_title: str, timeout_seconds: float
) -> int:
    """Have a peer send a series to an AE title (C-MOVE); return how many instances it says it sent.

    Parameters
    ----------
    here
        Host and port of that AE title, for the entry that a PACS may lack.

    Raises
    ------
    Retryable, Permanent
        With the entry of the PACS that is missing or wrong.
    """
    contexts = [(STUDY_ROOT_MOVE, syntax) for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)]
    entry = f"{to_ae_title} = {here}"
    with associate(address, contexts, calling_ae_title=calling_ae_title, timeout_seconds=timeout_seconds) as peer:
        if not peer.accepted_contexts:
            raise not_offered(address, STUDY_ROOT_MOVE)
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "SERIES"
        wanted.StudyInstanceUID, wanted.SeriesInstanceUID = series
        last = Dataset()
        for status, _ in peer.send_c_move(wanted, to_ae_title, STUDY_ROOT_MOVE):
            last = status
    if "Status" not in last:
        raise Retryable(f"{address.ae_title} aborted the move or did not answer in time", code="association-aborted")
    sent = int(last.get("NumberOfCompletedSuboperations") or 0)
    if last.Status == MOVE_DESTINATION_UNKNOWN:
        raise Permanent(
            f"{address.ae_title} does not know the move destination {to_ae_title}",
            code="move-destination-unknown",
            next_action=f"in the PACS, add the entry {entry}",
        )
    if last.Status != 0x0000 or not sent:
        raise Permanent(
            f"{address.ae_title} knows {to_ae_title} and could not send to it (0x{int(last.Status):04X}, {sent} sent)",
            code="move-failed",
            next_action=f"in the PACS, correct the entry to {entry}; here, list {address.ae_title} under peers",
        )
    return sent


def not_offered(address: Address, service: UID = STUDY_ROOT_FIND) -> Permanent:
    """Return the error of a peer that gives a service no presentation context."""
    return Permanent(
        f"{address.ae_title} does not offer {service.name}",
        code="sop-class-refused",
        next_action=f"in the PACS, allow {service.name} ({service}) for our AE title",
    )


def _refused(status: int, address: Address) -> CarpusError:
    text = f"{address.ae_title} refused the query with 0x{status:04X}"
    if status in PERMANENT:
        action = "in the PACS, give our AE title the right to query (C-FIND)"
        return Permanent(f"{text}: {PERMANENT[status]}", code=f"status-{status:04x}", next_action=action)
    return Retryable(text, code=f"status-{status:04x}", next_action="none: it is asked again")
