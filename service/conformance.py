"""State what the listener accepts and answers: one table each, from which code, documentation and tests are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    KeyObjectSelectionDocumentStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

ResultKind = Literal["SR", "SEG", "GSPS", "SC", "PDF", "KOS"]
VERIFICATION: Final = UID("1.2.840.10008.1.1")

# PS3.4 B.5: what may hold a hand film. Multi-frame Secondary Capture is not among them: a film is one frame.
STORAGE_CLASSES: Final[tuple[UID, ...]] = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

# Every transfer syntax that the installed codecs decode, in the order of our preference: of several in one presentation
# context the first of these is accepted (PS3.8 9.3.3.2 leaves the choice to the acceptor).
TRANSFER_SYNTAXES: Final[tuple[UID, ...]] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    RLELossless,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSNearLossless,
    JPEG2000,
    HTJ2K,
    JPEGBaseline8Bit,
)

# The SOP classes a report can be written in, by the names that a result profile uses. The content is two-dimensional, so each
# of them holds it; which one a PACS gets is settled with it before the report is identified.
SR_CLASSES: Final[Mapping[str, UID]] = {
    "Comprehensive 3D": Comprehensive3DSRStorage,
    "Comprehensive": ComprehensiveSRStorage,
    "Enhanced": EnhancedSRStorage,
}
# What is sent back (PS3.4 B.5), by the names that the objects of a result profile have.
RESULT_CLASSES: Final[Mapping[ResultKind, tuple[UID, ...]]] = {
    "SR": tuple(SR_CLASSES.values()),
    "SC": (SecondaryCaptureImageStorage,),
    "GSPS": (GrayscaleSoftcopyPresentationStateStorage,),
    "SEG": (SegmentationStorage,),
    "PDF": (EncapsulatedPDFStorage,),
    "KOS": (KeyObjectSelectionDocumentStorage,),
}


@dataclass(frozen=True, slots=True)
class ResultObject:
    """What one kind of result is; its SOP classes stand in `RESULT_CLASSES`."""

    modality: str
    content: str
    template: str = ""


RESULT_OBJECTS: Final[Mapping[ResultKind, ResultObject]] = {
    "SR": ResultObject(
        "SR", "bone age of every method, stage of every bone, quality, conclusion", "TID 1500, TID 1410"
    ),
    "SC": ResultObject("OT", "film with labelled regions, results and growth plot (RGB, 8 bit, one frame)"),
    "GSPS": ResultObject("PR", "outlines and names of the regions; polarity and window of the film"),
    "SEG": ResultObject("SEG", "distal radius and ulna, binary, one frame a bone, pixel for pixel"),
    "PDF": ResultObject("DOC", "one page with the film, the results and the name of the patient"),
    "KOS": ResultObject("KO", "refers to the film and to the SC", "TID 2010"),
}

REFUSED_TRANSFER_SYNTAXES: Final[Mapping[UID, str]] = {
    JPEGExtended12Bit: "no decoder under a permissive licence handles 12 bit JPEG (process 4)",
}


@dataclass(frozen=True, slots=True)
class Status:
    """A status of the C-STORE response and when it is given."""

    code: int
    name: str
    meaning: str
    kept: str  # what becomes of the bytes


# PS3.4 B.2.3 and PS3.7 C: A7xx out of resources, A9xx data set does not match SOP class, Cxxx cannot understand, Bxxx warning.
STORED: Final = Status(0x0000, "Success", "the instance is on disk and in the database, or was so already", "stored")
OTHER_BYTES: Final = Status(
    0xB006, "Elements discarded", "another data set is kept under this SOPInstanceUID and stays in use", "quarantine"
)
OUT_OF_RESOURCES: Final = Status(
    0xA700, "Out of resources", "disk, backlog or database cannot take more now; send again later", "nothing"
)
DOES_NOT_MATCH: Final = Status(
    0xA900, "Data set does not match SOP class", "SOPClassUID or SOPInstanceUID differ from the request", "quarantine"
)
CANNOT_PARSE: Final = Status(0xC000, "Cannot understand", "the data set cannot be parsed", "quarantine")
MISSING_UID: Final = Status(0xC001, "Cannot understand", "a UID that identifies the instance is missing", "quarantine")
TOO_MANY_PIXELS: Final = Status(0xC002, "Cannot understand", "Rows x Columns is beyond the limit", "quarantine")
TOO_LARGE: Final = Status(0xC003, "Cannot understand", "the data set inflates beyond the limit", "nothing")
FAILURE: Final = Status(0x0110, "Processing failure", "an unexpected error, named in the log", "nothing")

STATUSES: Final = (
    STORED,
    OTHER_BYTES,
    OUT_OF_RESOURCES,
    DOES_NOT_MATCH,
    CANNOT_PARSE,
    MISSING_UID,
    TOO_MANY_PIXELS,
    TOO_LARGE,
    FAILURE,
)


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ and when it is sent (PS3.8 9.3.4: result, source, reason)."""

    result: int
    source: int
    reason: int
    code: str
    meaning: str


CALLED_UNKNOWN: Final = Rejection(1, 1, 7, "called-ae-title", "the called AE title is not ours")
CALLING_UNKNOWN: Final = Rejection(1, 1, 3, "calling-ae-title", "the calling AE title is no listed peer")
ADDRESS_UNKNOWN: Final = Rejection(1, 1, 1, "peer-address", "the peer may not call from this address")
TLS_WANTED: Final = Rejection(1, 1, 1, "tls-required", "the peer may not call over plain DICOM")
CERTIFICATE_UNKNOWN: Final = Rejection(
    1, 1, 3, "peer-certificate", "the certificate does not stand for the calling AE title"
)
VERSION_UNKNOWN: Final = Rejection(1, 2, 2, "protocol-version", "the protocol version is not 1")
CONTEXT_UNKNOWN: Final = Rejection(1, 1, 2, "application-context", "the application context is not DICOM's")
FULL: Final = Rejection(2, 3, 2, "association-limit", "as many associations as we admit are open")
STOPPING: Final = Rejection(2, 3, 1, "stopping", "the service is being stopped")

REJECTIONS: Final = (
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    ADDRESS_UNKNOWN,
    TLS_WANTED,
    CERTIFICATE_UNKNOWN,
    VERSION_UNKNOWN,
    CONTEXT_UNKNOWN,
    FULL,
    STOPPING,
)
