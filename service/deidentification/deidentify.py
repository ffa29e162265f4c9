"""Take the identity out of an instance, or copy from it only what inference needs.

`deidentify` walks every level of the header and carries out what `confidentiality` rules (PS3.15 Annex E). `for_inference`
goes the other way: it starts from nothing and takes the pixels and the few attributes a reading depends on.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from service.deidentification.actions import Action, Walk, keep
from service.deidentification.burned_in.cleaning import Cleaning
from service.deidentification.confidentiality import CLEAN_PIXELS, Method, Profile, load
from service.deidentification.dates import age_days, age_string
from service.deidentification.identifiers import Identifiers
from service.deidentification.native_pixels import copy_pixels, has_pixels
from service.errors import InvalidInstance
from service.film_file import MALFORMED
from service.trust.pseudonyms import Pseudonyms

__all__ = ["Action", "age_days", "deidentify", "for_inference", "patient_of"]

IMPLEMENTATION_CLASS_UID: Final = UID("2.25.108311586158301398433413420541216190")
IMPLEMENTATION_VERSION_NAME: Final = "CARPUS"
# The attributes a reading depends on; everything else stays on the identified side.
INFERENCE: Final = (
    "Modality",
    "PatientSex",
    "BodyPartExamined",
    "ViewPosition",
    "Laterality",
    "ImageLaterality",
    "PatientOrientation",
    "PresentationIntentType",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "EstimatedRadiographicMagnificationFactor",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
    "PixelPaddingValue",
    "BurnedInAnnotation",
)
# The copy with native pixels, and the instance as received: what was done to the pixels, or None where they are no picture.
Clean = Callable[[Dataset, Dataset], Cleaning | None]
INFERENCE_TABLES: Final = ("ModalityLUTSequence", "VOILUTSequence")
INFERENCE_TABLE_ITEMS: Final = ("LUTDescriptor", "ModalityLUTType", "LUTData")


def patient_of(ds: Dataset) -> str:
    """Return what tells one patient from another in this header: identifier and issuer, else name and birth date, else the study."""
    for keywords in (("IssuerOfPatientID", "PatientID"), ("PatientName", "PatientBirthDate")):
        values = [_text(ds, keyword) for keyword in keywords]
        if values[-1] and (values[0] or keywords[-1] == "PatientID"):
            return "\0".join((keywords[-1], *values))
    return f"StudyInstanceUID\0{_text(ds, 'StudyInstanceUID')}"


def patient_key(patient_id: str, issuer: str = "") -> str:
    """Return what `patient_of` returns for a header with this PatientID and IssuerOfPatientID."""
    return "\0".join(("PatientID", issuer, patient_id))


def deidentify(
    ds: Dataset, pseudonyms: Pseudonyms, profile: Profile | None = None, *, clean: Clean | None = None
) -> tuple[Dataset, list[Action]]:
    """Return a copy of the instance without its identity, and what was done to each attribute.

    Parameters
    ----------
    ds
        An instance as read from its file, file meta information included; it is not changed.
    clean
        Takes text out of the pixels of the copy, given the header as received (`burned_in.cleaning`); only then does the copy
        state the option. None leaves the pixels as they are.

    Raises
    ------
    InvalidInstance
        When the SOP class is not one the profile was examined for, a UID is missing, the pixels cannot be decoded, or text
        in them can neither be ruled out nor removed.
    """
    profile = profile or load()
    with _quiet():
        _check_class(ds, profile)
        walk = _walk(ds, pseudonyms, profile)
        out = walk.level(ds)
        if "retain-patient-characteristics" in profile.options and (days := age_days(ds)) is not None:
            out.PatientAge = age_string(days)
        cleaned = None
        if has_pixels(ds):
            copy_pixels(ds, out)
            cleaned = clean(out, ds) if clean else None
        if cleaned is not None:
            walk.actions.append(Action("PixelData", "C", f"clean-pixel-data: {cleaned}"))
            if cleaned.remaining:
                raise InvalidInstance(
                    f"{cleaned.remaining} lines of text remain in the pixels after cleaning",
                    code="burned-in-text",
                    next_action="look at the film; export it only after its text was removed by hand",
                )
        _declare(out, (*profile.methods, CLEAN_PIXELS) if cleaned else profile.methods)
        if "retain-longitudinal-modified-dates" in profile.options:
            out.LongitudinalTemporalInformationModified = "MODIFIED"
        _finish(out, ds, pseudonyms)
    return out, walk.actions


def for_inference(ds: Dataset, pseudonyms: Pseudonyms) -> Dataset:
    """Return the pixels and the attributes of `INFERENCE`, and nothing else of the instance.

    Raises
    ------
    InvalidInstance
        When the SOP class is not covered, a UID is missing, or the pixels cannot be decoded.
    """
    with _quiet():
        _check_class(ds, load())
        walk = _walk(ds, pseudonyms, load())
        out = Dataset()
        _take(ds, out, INFERENCE, walk)
        for table in INFERENCE_TABLES:
            items = []
            for item in _sequence(ds, table):
                entry = Dataset()
                _take(item, entry, INFERENCE_TABLE_ITEMS, walk)
                items.append(entry)
            if items:
                setattr(out, table, Sequence(items))
        out.SOPClassUID = _text(ds, "SOPClassUID")
        copy_pixels(ds, out)
        out.PatientIdentityRemoved = "YES"
        out.DeidentificationMethod = "Carpus: pixels and listed attributes only"
        _finish(out, ds, pseudonyms)
    return out


def _check_class(ds: Dataset, profile: Profile) -> None:
    sop_class = _text(ds, "SOPClassUID")
    if sop_class not in profile.images | profile.others:
        # An unregistered UID is not repeated: whatever stands there, it is not the name of a class.
        name = UID(sop_class).name
        raise InvalidInstance(
            f"SOP class {name if name != sop_class else '(unknown)'} is not covered by the profile {profile.name}",
            code="sop-class-not-covered",
            next_action="list the class in the confidentiality profile after examining it",
        )


def _walk(ds: Dataset, pseudonyms: Pseudonyms, profile: Profile) -> Walk:
    syntax = getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", None)
    image = _text(ds, "SOPClassUID") in profile.images
    return Walk(
        profile,
        pseudonyms,
        Identifiers.of(ds, retained=lambda tag: profile.rule(tag, image=image).letter == "K"),
        patient_of(ds),
        image=image,
        big_endian=syntax == ExplicitVRBigEndian,
    )


def _take(source: Dataset, target: Dataset, keywords: tuple[str, ...], walk: Walk) -> None:
    """Copy the listed attributes whose values have the form of their representation and hold no identifying word."""
    wanted = Dataset()
    for keyword in keywords:
        if keyword in source:
            try:
                wanted.add(source[keyword])
            except MALFORMED:
                continue
    for element in wanted:
        kept = keep(element, source, element.keyword, walk)
        if kept is not None:
            target.add(kept)


def _sequence(ds: Dataset, keyword: str) -> list[Dataset]:
    try:
        return list(ds.get(keyword) or ())
    except MALFORMED:
        return []


def _text(ds: Dataset, keyword: str) -> str:
    """Return a value as text; empty where it is missing or cannot be decoded."""
    try:
        value = ds.get(keyword)
    except MALFORMED:
        return ""
    return "" if value is None else str(value).strip(" \0")


def _declare(out: Dataset, methods: tuple[Method, ...]) -> None:
    """Say what was done (PS3.15 E.1.1 paragraph 6, PS3.3 C.7.1.1)."""
    out.PatientIdentityRemoved = "YES"
    out.DeidentificationMethod = "Carpus, PS3.15 Annex E"
    codes = []
    for method in methods:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = method.code, "DCM", method.meaning
        codes.append(code)
    out.DeidentificationMethodCodeSequence = Sequence(codes)


def _finish(out: Dataset, ds: Dataset, pseudonyms: Pseudonyms) -> None:
    """Write the UID of the copy, its character set, and file meta information that owes nothing to the source."""
    original = _text(ds, "SOPInstanceUID")
    if not original:
        raise InvalidInstance("the instance has no SOPInstanceUID", code="no-sop-instance-uid")
    out.SOPInstanceUID = pseudonyms.uid(original)
    out.SpecificCharacterSet = "ISO_IR 192"
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = out.SOPClassUID
    meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    out.file_meta = meta
    out.preamble = b"\0" * 128


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom's warnings about malformed values: they quote the values."""
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield
