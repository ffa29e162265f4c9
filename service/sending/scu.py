"""Send instances to a PACS: one association for a whole delivery, and for every refusal the entry that has to change.

What a peer answers is sorted by what helps: `Retryable` when the same call may succeed later, `Permanent` when somebody has to
change a setting or an object first. Nothing counts as stored without a response that says so on an unbroken association.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import time
from pynetdicom.status import code_to_category

from service.errors import CarpusError, Permanent, Retryable
from service.sending.requestor import Address, associate

_config.STORE_SEND_CHUNKED_DATASET = True  # a file is sent as it lies there, not decoded and encoded again

MAXIMUM_CONTEXTS: Final = 128  # PS3.8 9.3.2.2: odd identifiers 1..255

# PS3.7 annex C and PS3.4 B.2.3: failures that the same object meets again. Every other failure may pass.
PERMANENT_STATUSES: Final[dict[int, tuple[str, str]]] = {
    0x0106: (
        "invalid attribute value",
        "an object we made is not valid for this PACS: report it with the job's timeline",
    ),
    0x0117: (
        "invalid object instance",
        "an object we made is not valid for this PACS: report it with the job's timeline",
    ),
    0x0119: (
        "class and instance conflict",
        "an object of another SOP class holds this UID in the PACS: remove it there",
    ),
    0x0120: ("missing attribute", "an object we made is not valid for this PACS: report it with the job's timeline"),
    0x0122: ("SOP class not supported", "in the PACS, allow this SOP class for our AE title"),
    0x0124: ("not authorised", "in the PACS, give our AE title the right to store"),
    0x0211: ("unrecognised operation", "this port of the PACS does not store: correct the destination's port"),
    0x0212: ("mistyped argument", "an object we made is not valid for this PACS: report it with the job's timeline"),
}
PERMANENT_RANGES: Final = (
    (0xA900, 0xA9FF, "data set does not match the SOP class"),
    (0xC000, 0xCFFF, "cannot understand"),
)
DUPLICATE_INSTANCE: Final = (
    0x0111  # PS3.7 C.5.7; our UIDs are derived from the content, so it keeps exactly this object
)


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one instance; `error` is None exactly when the peer said that it keeps it."""

    SOPInstanceUID: str
    SOPClassUID: str
    status: int | None
    error: CarpusError | None
    milliseconds: float

    @property
    def accepted(self) -> bool:
        """Whether the peer answered that it stored the instance."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class _Item:
    """What is to be sent: a data set, or a file whose bytes go as they are where the peer accepts their transfer syntax."""

    instance: Dataset | Path
    sop_class: UID
    sop_instance: str
    syntax: UID

    @staticmethod
    def of(instance: Dataset | Path) -> "_Item":
        """Look at what is to be sent; of a file no further than its meta information."""
        if isinstance(instance, Dataset):
            syntax = UID(instance.file_meta.TransferSyntaxUID)
            return _Item(instance, UID(instance.SOPClassUID), str(instance.SOPInstanceUID), syntax)
        meta = read_file_meta_info(instance)
        sop_class, syntax = UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID)
        return _Item(instance, sop_class, str(meta.MediaStorageSOPInstanceUID), syntax)

    def dataset(self) -> Dataset:
        """Return the data set, to be encoded in another transfer syntax."""
        return self.instance if isinstance(self.instance, Dataset) else dcmread(self.instance)


def echo(address: Address, *, calling_ae_title: str, timeout_seconds: float = 30) -> float:
    """Send C-ECHO; return the milliseconds from the call to the answer.

    Raises
    ------
    Retryable, Permanent
        With the cause and what to change.
    """
    started = time.perf_counter()
    contexts = [(Verification, ImplicitVRLittleEndian)]
    with associate(address, contexts, calling_ae_title=calling_ae_title, timeout_seconds=timeout_seconds) as peer:
        if not peer.accepted_contexts:
            raise _class_refused(UID(Verification), address)
        status = status_of(peer.send_c_echo())
        if status != 0:
            raise _refusal(status, UID(Verification), address) or Retryable(
                f"{address.ae_title} answered 0x{status:04X}"
            )
    return (time.perf_counter() - started) * 1000


def accepted_classes(
    address: Address, sop_classes: Sequence[UID], *, calling_ae_title: str, timeout_seconds: float = 30
) -> frozenset[str]:
    """Ask which of these SOP classes a peer accepts, in a transfer syntax we write; nothing is stored.

    Raises
    ------
    Retryable, Permanent
        When no association came about for another reason than that it accepts none.
    """
    contexts = [(uid, syntax) for uid in sop_classes for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)]
    try:
        with associate(address, contexts, calling_ae_title=calling_ae_title, timeout_seconds=timeout_seconds) as peer:
            return frozenset(str(context.abstract_syntax) for context in peer.accepted_contexts)
    except Permanent as error:
        if error.code == "sop-class-refused":
            return frozenset()
        raise


def store(
    address: Address,
    instances: Sequence[Dataset | Path],
    *,
    calling_ae_title: str,
    timeout_seconds: float = 30,
    maximum_pdu_size: int = 131_072,
    on_sent: Callable[[Sent], None] | None = None,
) -> list[Sent]:
    """Send all instances over one association; return one `Sent` for each, in order.

    What one SOP class is refused does not keep the others back. After an abort, a time-out or a lack of resources the rest
    is not sent and carries the same `Retryable`.

    Parameters
    ----------
    instances
        Data sets with file meta information, or paths of DICOM files. Uncompressed ones may be sent in implicit VR when the
        peer accepts nothing else; compressed ones only as they are.
    on_sent
        Called after each response, before the next request.

    Raises
    ------
    Retryable, Permanent
        When no association came about; nothing was sent.
    """
    items = [_Item.of(instance) for instance in instances]
    results: list[Sent] = []
    broken: Retryable | None = None
    with associate(
        address,
        _contexts(items),
        calling_ae_title=calling_ae_title,
        timeout_seconds=timeout_seconds,
        maximum_pdu_size=maximum_pdu_size,
    ) as peer:
        for item in items:
            started = time.perf_counter()
            status, error = (None, broken) if broken else _store_one(peer, item, address)
            if isinstance(error, Retryable):
                broken = error
            elapsed = (time.perf_counter() - started) * 1000
            results.append(Sent(item.sop_instance, str(item.sop_class), status, error, elapsed))
            if on_sent is not None:
                on_sent(results[-1])
    return results


def failure(results: Sequence[Sent]) -> CarpusError | None:
    """Return what kept a delivery from being complete: the first permanent refusal, else the first transient one."""
    errors = [sent.error for sent in results if sent.error is not None]
    return next((error for error in errors if isinstance(error, Permanent)), errors[0] if errors else None)


def _contexts(items: Sequence[_Item]) -> list[tuple[UID, UID]]:
    """Return the (SOP class, transfer syntax) pairs to propose, each once."""
    pairs: dict[tuple[UID, UID], None] = {}
    for item in items:
        alternatives = () if item.syntax.is_compressed else (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        for candidate in (item.syntax, *alternatives):
            pairs[item.sop_class, UID(candidate)] = None
    if len(pairs) > MAXIMUM_CONTEXTS:
        raise Permanent(
            f"{len(pairs)} presentation contexts are needed, an association has room for {MAXIMUM_CONTEXTS}",
            code="too-many-contexts",
            next_action="send the films in smaller groups",
        )
    return list(pairs)


def _store_one(peer: Any, item: _Item, address: Address) -> tuple[int | None, CarpusError | None]:
    sop_class, syntax = item.sop_class, item.syntax
    accepted = [context for context in peer.accepted_contexts if context.abstract_syntax == sop_class]
    if not accepted:
        return None, _class_refused(sop_class, address)
    as_it_is = any(context.transfer_syntax[0] == syntax for context in accepted)
    if syntax.is_compressed and not as_it_is:
        return None, Permanent(
            f"{address.ae_title} does not accept {sop_class.name} in {syntax.name}",
            code="transfer-syntax-refused",
            next_action=f"in the PACS, allow {syntax.name} for {sop_class.name}, or send the film uncompressed",
        )
    try:
        answer = peer.send_c_store(item.instance if as_it_is else item.dataset())
    except RuntimeError:  # raised when the association has ended in the meantime
        answer = Dataset()
    try:
        status = status_of(answer)
    except Retryable as error:
        return None, error
    return status, _refusal(status, sop_class, address)


def status_of(answer: Dataset) -> int:
    """Return the status of a response.

    Raises
    ------
    Retryable
        When there was none: the association was aborted, or the peer did not answer in time.
    """
    if "Status" not in answer:
        raise Retryable(
            "the peer aborted the association or did not answer in time",
            code="association-aborted",
            next_action="none: it is sent again; if it repeats, ask the PACS administrator for its log",
        )
    return int(answer.Status)


def _refusal(status: int, sop_class: UID, address: Address) -> CarpusError | None:
    """Return what a DIMSE status means, None where the instance is kept."""
    if code_to_category(status) in ("Success", "Warning") or status == DUPLICATE_INSTANCE:
        return None
    where = f"{address.ae_title} refused {sop_class.name} with 0x{status:04X}"
    named = PERMANENT_STATUSES.get(status)
    if named is not None:
        return Permanent(f"{where}: {named[0]}", code=f"status-{status:04x}", next_action=named[1])
    for first, last, text in PERMANENT_RANGES:
        if first <= status <= last:
            return Permanent(
                f"{where}: {text}",
                code=f"status-{status:04x}",
                next_action="ask the PACS administrator for its log of this instance",
            )
    return Retryable(f"{where}", code=f"status-{status:04x}", next_action="none: it is sent again")


def _class_refused(sop_class: UID, address: Address) -> Permanent:
    return Permanent(
        f"{address.ae_title} does not accept the SOP class {sop_class.name} ({sop_class})",
        code="sop-class-refused",
        next_action=f"in the PACS, allow {sop_class.name} ({sop_class}) for our AE title, or take it out of the destination's objects",
    )
