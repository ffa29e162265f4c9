"""Take from a received header what a result needs, and nothing that could break it.

Legacy headers lack attributes, carry them with a wrong VR or hold text in a character set they do not name. Two things are
kept apart: the *identity*, which goes into every result byte for byte as received, and the *header*, a small clean data set
that describes the image and is all that library code ever sees.
"""

import copy
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, cast

import pydicom
from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, DigitalXRayImageStorageForPresentation

import service.character_sets  # noqa: F401 - corrects pydicom
from service.errors import InvalidInstance

# PS3.3 C.7.1.1, C.7.2.1 and C.7.3.1: what makes a result land beside its film. Type 2 there: written empty when absent.
TYPE_2: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
TYPE_3: Final = (
    *("IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientBirthTime"),
    *("OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup", "PatientComments"),
    *("PatientAge", "PatientSize", "PatientWeight", "Occupation", "AdditionalPatientHistory", "AdmissionID"),
    *("StudyDescription", "ProcedureCodeSequence", "ReferencedStudySequence", "IssuerOfAccessionNumberSequence"),
    *("PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "LongitudinalTemporalInformationModified", "TimezoneOffsetFromUTC"),
)
# In which two instances of one study must agree to be of one patient.
PATIENT: Final = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
STUDY_LEVEL: Final = ("StudyInstanceUID", *TYPE_2, *TYPE_3)
REQUIRED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

# What a value of these representations looks like (PS3.5 6.2); text is never judged, it is carried as it came.
_VALID: Final = {
    "DA": re.compile(rb"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "TM": re.compile(rb"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "AS": re.compile(rb"\d{3}[DWMY]"),
    "CS": re.compile(rb"[A-Z0-9 _]{1,16}"),
    "DS": re.compile(rb"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"),
}
# What senders write for the defined terms of PS3.3 C.12.1.1.2.
_SPELLINGS: Final = (
    (re.compile(r"ISO[ _-]?IR[ _-]?(\d+)", re.IGNORECASE), r"ISO_IR \1"),
    (re.compile(r"ISO[ _-]?2022[ _-]?IR[ _-]?(\d+)", re.IGNORECASE), r"ISO 2022 IR \1"),
    (re.compile(r"UTF[ _-]?8", re.IGNORECASE), "ISO_IR 192"),
    (re.compile(r"GB[ _-]?18030", re.IGNORECASE), "GB18030"),
    (re.compile(r"GB[ _-]?K", re.IGNORECASE), "GBK"),
)
_UID: Final = re.compile(r"[0-9][0-9.]{0,62}[0-9]")


@dataclass(frozen=True, slots=True)
class Source:
    """One received instance as the builders of results see it.

    Parameters
    ----------
    header
        Identifiers and image attributes, checked; no identity, no pixels, no private element.
    identity
        The study-level elements as received, undecoded, with type 2 ones present and empty where they were absent.
    character_set
        The values of SpecificCharacterSet as received; empty when there was none.
    identity_is_ascii
        Whether every identity value reads the same in every character set.
    remarks
        What was tolerated, by keyword; for the log. Holds no value.
    """

    header: Dataset
    identity: Dataset
    character_set: tuple[str, ...]
    identity_is_ascii: bool
    remarks: tuple[str, ...] = ()

    @property
    def rows(self) -> int | None:
        """Rows of the film, None where the header states none."""
        value = self.header.get("Rows")
        return None if value is None else int(value)

    @property
    def columns(self) -> int | None:
        """Columns of the film, None where the header states none."""
        value = self.header.get("Columns")
        return None if value is None else int(value)

    @property
    def SOPInstanceUID(self) -> str:
        """The identifier every derived UID starts from."""
        return str(self.header.SOPInstanceUID)


def shown(source: Source, keyword: str) -> tuple[str, bool]:
    """Return a text of the identity for people, and whether its character set had to be guessed.

    A guess is for the eye alone: what is written into results is the bytes. Text that no guess explains is shown as empty.
    This is the one way to read the identity: `Dataset.get` would put the decoded value in the place of the bytes.
    """
    tag = Tag(tag_for_keyword(keyword) or 0)
    value = _element(source.identity, tag).value if tag in source.identity else b""
    if not isinstance(value, bytes):
        raise TypeError(f"{keyword} of the identity was decoded; its bytes are lost to the results")
    raw = value.strip(b" \0")
    if _is_ascii(raw):
        return raw.decode("ascii"), False
    if len(source.character_set) > 1:
        text = decode_bytes(raw, convert_encodings(list(source.character_set)), {*b"\\^="})
        if "\ufffd" not in text:
            return text, False
    stated = python_encoding.get(source.character_set[0]) if len(source.character_set) == 1 else None
    for encoding in filter(None, (stated, "utf-8", "gb18030")):
        try:
            return raw.decode(encoding), encoding != stated
        except UnicodeDecodeError:
            continue
    return "", True


def conflicts(film: Source, other: Source) -> tuple[str, ...]:
    """Name the attributes in which two instances of one study state different patients.

    What one of them leaves empty is no conflict, and neither is the name: modalities write one name in many ways.
    """
    stated = {keyword: (shown(film, keyword)[0], shown(other, keyword)[0]) for keyword in PATIENT}
    return tuple(keyword for keyword, (a, b) in stated.items() if a and b and a != b)


def load(file: Path | BytesIO) -> Source:
    """Normalise the header of a file; the pixels are not read."""
    return normalise(pydicom.dcmread(file, stop_before_pixels=True, force=True))


def sealed_part(path: Path) -> bytes:
    """Return the header of a file as a file of its own: every element as it came, undecoded, without the pixels."""
    with path.open("rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        meta = getattr(header, "file_meta", Dataset())
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            end = file.tell()  # of what was read: before the pixels
            file.seek(0)
            return file.read(end)
    stream = BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def normalise(received: Dataset) -> Source:
    """Normalise a copy of a received header; `received` is left as it is.

    Raises
    ------
    InvalidInstance
        When a UID without which no result can be made is absent or malformed; the attribute is named.
    """
    remarks: list[str] = []
    header = Dataset()
    for keyword in REQUIRED:
        setattr(header, keyword, _required_uid(received, keyword))
    identity, ascii_only = _identity(received, remarks)
    for keyword in TYPE_2:
        # Library code demands these and would choke on odd values; the true ones come from `identity`.
        setattr(header, keyword, None)
    _describe_image(received, header, remarks)
    character_set = _character_set(_text(received, "SpecificCharacterSet"), ascii_only, remarks)
    return Source(
        header=header,
        identity=identity,
        character_set=character_set,
        identity_is_ascii=ascii_only,
        remarks=tuple(remarks),
    )


def _required_uid(received: Dataset, keyword: str) -> str:
    value = _text(received, keyword)
    if not _UID.fullmatch(value):
        fault = "is missing" if not value else f"is not a UID ({len(value)} characters)"
        raise InvalidInstance(
            f"{keyword} {fault}: no result can be made that belongs to this instance",
            code=f"missing-{keyword}" if not value else f"invalid-{keyword}",
            next_action=f"correct {keyword} at the sender and send the instance again",
        )
    return value


def _character_set(stated: str, identity_is_ascii: bool, remarks: list[str]) -> tuple[str, ...]:
    """Return the values as the standard spells them; an unknown one stays only where the identity needs it."""
    if not stated:
        return ()
    values = tuple(_spelled(value.strip()) for value in stated.split("\\"))
    if values != tuple(stated.split("\\")):
        remarks.append("SpecificCharacterSet: misspelt, corrected")
    if all(value in python_encoding for value in values):
        return values
    remarks.append("SpecificCharacterSet: unknown")
    usable = not identity_is_ascii and all(re.fullmatch(r"[A-Z0-9 _]{0,16}", value) for value in values)
    return values if usable else ()


def _spelled(value: str) -> str:
    for pattern, spelling in _SPELLINGS:
        if match := pattern.fullmatch(value):
            return match.expand(spelling)
    return value


def _identity(received: Dataset, remarks: list[str]) -> tuple[Dataset, bool]:
    identity, ascii_only = Dataset(), True
    for keyword in STUDY_LEVEL:
        tag, vr = Tag(tag_for_keyword(keyword) or 0), dictionary_VR(keyword)
        if vr == "SQ":
            if tag in received and (sequence := _sequence(received, tag)) is not None:
                identity[tag] = sequence
                ascii_only = ascii_only and all(_sequence_is_ascii(item) for item in sequence.value)
            continue
        value = _bytes(received, tag)
        if value and vr in _VALID and not all(_VALID[vr].fullmatch(v.strip(b" \0")) for v in value.split(b"\\")):
            remarks.append(f"{keyword}: not a value of VR {vr}, left out")
            value = b""
        if not value and keyword in TYPE_3:
            continue
        if not value and tag not in received:
            remarks.append(f"{keyword}: absent, written empty")
        value = value or b""
        ascii_only = ascii_only and _is_ascii(value)
        identity[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True, True)
    return identity, ascii_only


def _element(ds: Dataset, tag: int) -> DataElement | RawDataElement:
    """Return an element without decoding it (pydicom types only the decoded case)."""
    return cast("DataElement | RawDataElement", ds.get_item(tag))


def _bytes(received: Dataset, tag: int) -> bytes | None:
    """Return the undecoded value of a text element, padded to even length."""
    if tag not in received:
        return None
    element = _element(received, tag)
    value = (element.value or b"") if isinstance(element, RawDataElement) else _encode(element, received)
    return value + b" " if len(value) % 2 else value


def _encode(element: DataElement, received: Dataset) -> bytes:
    """Encode an element that somebody has already decoded, in the character set it was decoded from."""
    encodings = convert_encodings(received.get("SpecificCharacterSet", "ISO_IR 6") or "ISO_IR 6")
    values = element.value if isinstance(element.value, MultiValue | list | tuple) else [element.value]
    parts = []
    for value in values:
        if value is None:
            parts.append(b"")
        elif isinstance(value, bytes):
            parts.append(value)
        elif element.VR == "PN":
            parts.append(value.encode(encodings))
        else:
            parts.append(encode_string(str(value), encodings))
    return b"\\".join(parts)


def _sequence(received: Dataset, tag: int) -> DataElement | None:
    """Return a copy of a sequence without private elements, or None when it is empty, unreadable or no sequence."""
    element = _element(received, tag)
    if isinstance(element, RawDataElement):
        if element.VR not in (None, "SQ"):
            return None
        try:
            element = convert_raw_data_element(element, encoding=received.original_character_set)
        except (EOFError, ValueError, TypeError, AttributeError, NotImplementedError, struct.error, OSError):
            return None  # optional attributes: a broken one is not worth a report
    if element.VR != "SQ" or not element.value:
        return None
    duplicate = copy.deepcopy(element)
    for item in duplicate.value:
        _drop_private(item)
    return duplicate


def _drop_private(item: Dataset) -> None:
    for tag in list(item.keys()):
        element = _element(item, tag)
        if tag.is_private:
            del item[tag]
        elif not isinstance(element, RawDataElement) and element.VR == "SQ":
            for nested in element.value:
                _drop_private(nested)


def _is_ascii(value: bytes) -> bool:
    """Whether these bytes mean the same in every character set: ASCII without an escape sequence."""
    return value.isascii() and b"\x1b" not in value


def _sequence_is_ascii(item: Dataset) -> bool:
    for tag in item.keys():  # noqa: SIM118 - iterating the data set itself would decode every element
        element = _element(item, tag)
        if isinstance(element, RawDataElement):
            if not _is_ascii(element.value or b""):
                return False
        elif element.VR == "SQ":
            if not all(_sequence_is_ascii(nested) for nested in element.value):
                return False
        elif not str(element.value).isascii():
            return False
    return True


def _text(received: Dataset, keyword: str) -> str:
    """Return an element of the default repertoire as text, whatever its state; empty when absent."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    if tag not in received:
        return ""
    element = _element(received, tag)
    if isinstance(element, RawDataElement):
        return (element.value or b"").decode("latin-1").strip(" \0")
    value = element.value
    if isinstance(value, MultiValue | list | tuple):
        return "\\".join(str(v) for v in value)
    return "" if value is None else str(value).strip(" \0")


def _unsigned(received: Dataset, keyword: str) -> int | None:
    """Return a positive US value, tolerating one that was written as text."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    if tag not in received:
        return None
    element = _element(received, tag)
    if isinstance(element, RawDataElement) and element.VR not in ("IS", "DS"):
        raw = element.value or b""
        value = int.from_bytes(raw, "little" if element.is_little_endian else "big") if len(raw) == 2 else 0
    else:
        text = _text(received, keyword)
        value = int(text) if text.isdigit() else 0
    return value if 0 < value < 65536 else None


def _numbers(received: Dataset, keyword: str) -> list[float]:
    parts = _text(received, keyword).split("\\")
    if not all(_VALID["DS"].fullmatch(part.strip().encode("latin-1", "replace")) for part in parts):
        return []
    return [float(part) for part in parts]


def _one_of(*values: str) -> Callable[[str], bool]:
    return lambda text: text in values


_CODE_STRINGS: Final[dict[str, Callable[[str], bool]]] = {
    "Modality": lambda text: bool(re.fullmatch(r"[A-Z0-9 _]{1,16}", text)),
    "PhotometricInterpretation": lambda text: bool(re.fullmatch(r"[A-Z0-9 _]{1,16}", text)),
    "ImageLaterality": _one_of("L", "R", "U", "B"),
    "Laterality": _one_of("L", "R"),
    "ViewPosition": lambda text: bool(re.fullmatch(r"[A-Z0-9 _]{1,16}", text)),
    "VOILUTFunction": _one_of("LINEAR", "LINEAR_EXACT", "SIGMOID"),
    "PresentationLUTShape": _one_of("IDENTITY", "INVERSE"),
    "LossyImageCompression": _one_of("00", "01"),
}


def _describe_image(received: Dataset, header: Dataset, remarks: list[str]) -> None:
    """Copy what describes the pixels, each value checked; what is unusable is left out and remarked."""
    for keyword, valid in _CODE_STRINGS.items():
        text = _text(received, keyword)
        if valid(text):
            setattr(header, keyword, text)
        elif text:
            remarks.append(f"{keyword}: not a value it may have, left out")
    if "Modality" not in header:
        dx = header.SOPClassUID.startswith(DigitalXRayImageStorageForPresentation)
        header.Modality = "DX" if dx else "OT"
    for keyword in ("Rows", "Columns"):
        if (count := _unsigned(received, keyword)) is not None:
            setattr(header, keyword, count)
    if ("Rows" in header) != ("Columns" in header):
        for keyword in ("Rows", "Columns"):
            header.pop(keyword, None)
        remarks.append("Rows, Columns: only one of them is usable, the image has no geometry")
    for keyword in ("BitsStored", "BitsAllocated", "SamplesPerPixel"):
        if (count := _unsigned(received, keyword)) is not None:
            setattr(header, keyword, count)
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        spacing = _numbers(received, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            setattr(header, keyword, spacing)
        elif _text(received, keyword):
            remarks.append(f"{keyword}: not two positive numbers, left out")
    orientation = _text(received, "PatientOrientation").split("\\")
    if len(orientation) == 2 and all(re.fullmatch(r"[A-Z]{1,16}", part) for part in orientation):
        header.PatientOrientation = orientation
    if header.get("LossyImageCompression") == "01":
        # What is derived from a film that lost detail says so too (PS3.3 C.7.6.1.1.5).
        if ratio := _numbers(received, "LossyImageCompressionRatio"):
            header.LossyImageCompressionRatio = ratio
        if re.fullmatch(
            r"[A-Z0-9_ ]{1,16}(\\[A-Z0-9_ ]{1,16})*", method := _text(received, "LossyImageCompressionMethod")
        ):
            header.LossyImageCompressionMethod = method.split("\\")
    slope, intercept = _numbers(received, "RescaleSlope"), _numbers(received, "RescaleIntercept")
    if len(slope) == len(intercept) == 1 and slope[0] != 0:
        header.RescaleSlope, header.RescaleIntercept = slope[0], intercept[0]
        header.RescaleType = "US"
    centers, widths = _numbers(received, "WindowCenter"), _numbers(received, "WindowWidth")
    if centers and len(centers) == len(widths) and min(widths) >= 1:
        header.WindowCenter, header.WindowWidth = centers[0], widths[0]
