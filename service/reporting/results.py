"""What every result object shares: its place in the study, its identifiers, its equipment and its text encoding."""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian

from models.reading import Reading
from service import uids
from service.conformance import RESULT_CLASSES
from service.errors import InvalidConfiguration, Permanent
from service.reporting import codes
from service.reporting.amendment import Amendment
from service.reporting.codes import Language
from service.reporting.history import Prior
from service.reporting.source import STUDY_LEVEL, Source, shown
from service.result_profile import SERIES, ResultKind, SeriesLabel

MANUFACTURER: Final = "Carpus"
MODEL_NAME: Final = "Carpus bone age"
DISCLAIMER: Final = {"en": "For research, not for clinical use", "zh": "仅供科研，不用于临床"}
# What a result is derived from, in place of a bundle's hash, when routing turned a film away before any model saw it.
NO_BUNDLE: Final = "no-model"
_ASCII_SETS: Final = ("", "ISO_IR 6", "ISO 2022 IR 6")
# Our own implementation, written into the file meta information (PS3.10 7.1).
IMPLEMENTATION_CLASS_UID: Final = uids.derive("implementation", MODEL_NAME)
IMPLEMENTATION_VERSION_NAME: Final = "CARPUS"


@dataclass(frozen=True, slots=True)
class ResultContext:
    """Who makes a result, for whom and in which language.

    Parameters
    ----------
    device_uid
        The UID of this installation as a device observer; fixed for its life.
    created_at
        When the reading was made; stored with the job, so that a repeat of the delivery sends equal instances.
    language
        en or zh. Chinese falls back to English, and the report says so, where the film's character set cannot hold it.
    profile
        What distinguishes the results of one destination from those of another; part of every derived UID.
    kinds
        What the destination gets together, so that one object may refer to another.
    report_class
        SOP class of the Structured Report, settled with the destination; part of the report's UID.
    series
        Number and description of each kind of series.
    picture_modality
        Modality of the Secondary Capture: OT, or "film" for that of the film.
    revision
        Counts deliberate re-issues of results for the same film, bundle and profile.
    priors
        Earlier bone ages of the patient, the latest last; kept with the job, as `created_at` is.
    amendment
        What a person corrected in the reading; None for the algorithm's own.
    """

    device_uid: str
    created_at: dt.datetime
    language: Language = "en"
    institution_name: str = ""
    device_serial_number: str = "1"
    software_version: str = "0.1.0"
    profile: str = "default"
    revision: int = 0
    kinds: tuple[ResultKind, ...] = ("SR", "SC", "GSPS", "SEG")
    report_class: UID = Comprehensive3DSRStorage
    series: Mapping[ResultKind, SeriesLabel] = field(default_factory=lambda: SERIES)
    picture_modality: str = "OT"
    priors: tuple[Prior, ...] = ()
    amendment: Amendment | None = None

    def __post_init__(self) -> None:
        """Refuse a time without a zone: it would be written as local time and mean another moment."""
        if self.created_at.tzinfo is None:
            raise InvalidConfiguration("created_at has no time zone; an aware time is needed")


def language_for(source: Source, context: ResultContext) -> Language:
    """Return the language in which our own text can stand beside this identity."""
    return context.language if character_set_for(source, context.language) is not None else "en"


def character_set_for(source: Source, language: Language) -> tuple[str, ...] | None:
    """Choose a Specific Character Set that leaves the identity's bytes as they are and can hold our text.

    English text is written in ASCII, which every set holds, so the film's own set stays. Chinese needs more: UTF-8 and
    GB18030 hold it already; an identity in pure ASCII reads the same in UTF-8; any other single-byte set is extended by
    ISO 2022 IR 58 (GB 2312), which keeps the bytes of the first set (PS3.5 6.1.2.5). None: the film's set is unknown.
    """
    known = source.character_set
    if language == "en" or any(value in ("ISO_IR 192", "GB18030", "GBK") for value in known):
        return known
    if any(value == "ISO 2022 IR 58" for value in known):
        return known
    if source.identity_is_ascii:
        return ("ISO_IR 192",)
    if any(value not in python_encoding for value in known):
        return None
    extended = tuple(value.replace("ISO_IR ", "ISO 2022 IR ") for value in known or ("",))
    return (*(("" if value == "ISO 2022 IR 6" else value) for value in extended), "ISO 2022 IR 58")


def character_set(source: Source, context: ResultContext) -> tuple[str, ...]:
    """Return the Specific Character Set of a result: holds our text, and the observer's name where a person corrected it.

    Raises
    ------
    Permanent
        When no set leaves the identity's bytes as they are and holds the observer's name.
    """
    language = language_for(source, context)
    own = character_set_for(source, language) or source.character_set
    names = () if context.amendment is None else (context.amendment.observer, context.amendment.organisation)
    for candidate in (own, character_set_for(source, "zh")):
        if candidate is not None and all(_writable(name, candidate) for name in names):
            return candidate
    raise Permanent(
        f"the observer's name cannot be written in the character set of this film ({', '.join(own) or 'the default one'})",
        code="observer-not-writable",
        next_action="cancel this job and correct the reading again with the observer's name in Latin letters",
    )


@dataclass(frozen=True, slots=True)
class Reference:
    """Where one of our objects is to be found; known before it is built, for its UIDs are derived."""

    SOPClassUID: str
    SOPInstanceUID: str
    SeriesInstanceUID: str


def reference(source: Source, kind: ResultKind, reading: Reading, context: ResultContext) -> Reference:
    """Return the identity of one result of a film that was read."""
    sop_class = context.report_class if kind == "SR" else RESULT_CLASSES[kind][0]
    made_of = (source, reading.bundle.sha256, kind, context, inputs(reading))
    return Reference(str(sop_class), result_uid(*made_of, "instance"), result_uid(*made_of, "series"))


def result_uid(source: Source, sha256: str, kind: str, context: ResultContext, *parts: str) -> str:
    """Derive the UID of one result, or of a part of it, from what it was made of.

    The SOP class of a report is among it: one UID must never stand for objects of two classes.
    """
    amended = () if context.amendment is None else (context.amendment.key,)
    sop_class = (str(context.report_class),) if kind.startswith("SR") else ()
    return uids.derive(
        *(source.SOPInstanceUID, sha256, kind, language_for(source, context), context.profile, str(context.revision)),
        *(*sop_class, *amended, *parts),
    )


def inputs(reading: Reading) -> str:
    """Name the inputs beside the pixels that a result depends on: a sex corrected later makes another result."""
    return f"sex={reading.sex or 'unknown'}"


def finish(dataset: Dataset, source: Source, kind: ResultKind, context: ResultContext) -> Dataset:
    """Give a built object its identity, equipment, times and character set; return it.

    The identity goes in undecoded. The data set declares itself to be in its original encoding, for only then does pydicom
    write such elements as they are; Explicit VR Little Endian is that encoding.
    """
    language = language_for(source, context)
    values = character_set(source, context)
    series = context.series[kind]
    if values:
        dataset.SpecificCharacterSet = list(values) if len(values) > 1 else values[0]
    elif "SpecificCharacterSet" in dataset:
        del dataset.SpecificCharacterSet
    dataset.SeriesNumber = series.number
    dataset.SeriesDescription = f"{series.chinese if language == 'zh' else series.english} - {DISCLAIMER[language]}"
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL_NAME
    dataset.SoftwareVersions = context.software_version
    dataset.DeviceSerialNumber = context.device_serial_number
    dataset.pop("InstitutionName", None)
    if context.institution_name and _writable(context.institution_name, values):
        dataset.InstitutionName = context.institution_name
    created_at = local_time(source, context)
    for stem in ("InstanceCreation", "Content", "Series"):
        if stem != "Content" or "ContentDate" in dataset:
            setattr(dataset, f"{stem}Date", f"{created_at:%Y%m%d}")
            setattr(dataset, f"{stem}Time", f"{created_at:%H%M%S.%f}")
    for equipment in dataset.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = f"{created_at:%Y%m%d%H%M%S.%f}"  # highdicom writes the present moment
    if kind == "SR":  # the others hold no code of ours
        _declare_scheme(dataset)
    if kind != "SR":  # has no element of ambiguous VR, and is large
        correct_ambiguous_vr(dataset, True)
    for keyword in STUDY_LEVEL:
        dataset.pop(keyword, None)
    for tag in source.identity.keys():  # noqa: SIM118 - iterating the data set itself would decode every element
        dataset[tag] = source.identity.get_item(tag)
    _as_encoded(dataset)
    for item in dataset.get("ContentSequence", ()):
        _all_as_encoded(item)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    return dataset


def _as_encoded(dataset: Dataset) -> None:
    """Declare a data set to be in the encoding it will be written in."""
    dataset.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=getattr(dataset, "_character_set", None)
    )


def _all_as_encoded(item: Dataset) -> None:
    """Do so for a content item of ours and everything in it: pydicom else looks for ambiguous VRs at every level anew.

    What says so already says it of everything in it: codes and their items are shared by all reports.
    """
    if item.original_encoding == (False, True):
        return
    _as_encoded(item)
    for element in item:
        if element.VR == "SQ":
            for nested in element.value:
                _all_as_encoded(nested)


def state_laterality(dataset: Dataset, source: Source, seen: str | None) -> None:
    """Write the body part and its side: the side the film states, else the one seen on it, else empty."""
    stated = source.header.get("ImageLaterality") or source.header.get("Laterality")
    dataset.Laterality = stated if stated in ("L", "R") else (seen or "")
    dataset.BodyPartExamined = "HAND"


def local_time(source: Source, context: ResultContext) -> dt.datetime:
    """Return the time of the result on the clock of the film: its stated offset from UTC, else this machine's zone."""
    offset, _ = shown(source, "TimezoneOffsetFromUTC")
    if re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", offset):
        return context.created_at.astimezone(dt.datetime.strptime(offset, "%z").tzinfo)
    return context.created_at.astimezone()


def _writable(text: str, character_set: Sequence[str]) -> bool:
    """Whether this character set can hold the text; what it cannot hold is never written as question marks."""
    if text.isascii():
        return True
    # pydicom reads the default repertoire as Latin-1; it is ASCII (PS3.5 6.1.2.1).
    known = [value for value in character_set if value in python_encoding and value not in _ASCII_SETS]
    return all(any(_holds(value, character) for value in known) for character in text)


def _holds(value: str, character: str) -> bool:
    try:
        character.encode("gb2312" if value == "ISO 2022 IR 58" else python_encoding[value])
    except UnicodeEncodeError:
        return False
    return True


def _declare_scheme(dataset: Dataset) -> None:
    """PS3.3 C.12.1: say what our private coding scheme is."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    item.CodingSchemeName = codes.PRIVATE_SCHEME_NAME
    item.CodingSchemeVersion = codes.PRIVATE_SCHEME_VERSION
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    dataset.CodingSchemeIdentificationSequence = [item]
