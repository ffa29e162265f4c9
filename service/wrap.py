"""Wrap a picture of a hand into a DICOM instance as a CR, DX or Secondary Capture device would make it.

For films that exist only as PNG or JPEG (`carpus send`), for phantoms and for the tests. The header states what it is: a
wrapped picture, with the patient it was given.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import DSfloat

from models.image import Image

Kind = Literal["CR", "DX", "DX-PROCESSING", "SC"]
Photometric = Literal["MONOCHROME1", "MONOCHROME2"]

# SOP class and Modality of each kind (PS3.4 B.5; PS3.3 A.2, A.26, A.8).
KINDS: Final[Mapping[Kind, tuple[UID, str]]] = {
    "CR": (ComputedRadiographyImageStorage, "CR"),
    "DX": (DigitalXRayImageStorageForPresentation, "DX"),
    "DX-PROCESSING": (DigitalXRayImageStorageForProcessing, "DX"),
    "SC": (SecondaryCaptureImageStorage, "OT"),
}
_NAMESPACE: Final = uuid.UUID("5d2b0f2e-3f0c-4e5e-9d5b-0c6b6a1f2c11")


@dataclass(frozen=True, slots=True)
class Patient:
    """Whose film it is to be; the default is nobody's."""

    PatientName: str = "TEST^WRAPPED"
    PatientID: str = "TEST-1"
    PatientSex: str = ""
    PatientBirthDate: date | None = None


def uid(*parts: object) -> UID:
    """Derive a UID from its parts, the same for the same parts (PS3.5 B.2: 2.25 and the integer of a UUID)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, repr(parts)).int}")


def wrap(
    picture: Image | NDArray[Any],
    patient: Patient | None = None,
    *,
    kind: Kind = "CR",
    photometric_interpretation: Photometric = "MONOCHROME2",
    bits_stored: int = 12,
    transfer_syntax: str = ExplicitVRLittleEndian,
    character_set: str | list[str] = "ISO_IR 192",
    study: object = None,
    number: int = 1,
    laterality: str = "L",
    body_part: str = "HAND",
    spacing_mm: tuple[float, float] | None = (0.14, 0.14),
    at: datetime | None = None,
) -> Dataset:
    """Return an instance with file meta information, ready to be stored or sent.

    Parameters
    ----------
    picture
        An `Image` (bone bright), or an array: (rows, columns) of uint8 or uint16, or (rows, columns, 3) of uint8 for colour
        (kind SC only). An array is stored as it is, an `Image` as `photometric_interpretation` and `bits_stored` ask.
    study
        Key of the study: equal keys (for one PatientID) give equal UIDs, None a new study at each call.
    number
        InstanceNumber, and the key of the instance within its study.
    laterality, body_part, spacing_mm
        Empty or None leaves the attribute out, as real devices do.

    Raises
    ------
    ValueError
        When the picture does not fit the kind, its depth or the transfer syntax.
    """
    patient = patient or Patient()
    at = at or datetime.now(UTC)
    key = uuid.uuid4().hex if study is None else study
    sop_class, modality = KINDS[kind]
    ds = Dataset()
    ds.SpecificCharacterSet = character_set
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = uid(patient.PatientID, key, "instance", number)
    ds.StudyInstanceUID = uid(patient.PatientID, key, "study")
    ds.SeriesInstanceUID = uid(patient.PatientID, key, "series", kind)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = f"{at:%Y%m%d}"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{at:%H%M%S}"
    ds.AccessionNumber = f"A{int(ds.StudyInstanceUID[5:]) % 10**10:010d}"
    ds.Modality = modality
    ds.Manufacturer = "Wrapped picture"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Bone age" if body_part in ("", "HAND") else body_part.title()
    ds.PatientName = patient.PatientName
    ds.PatientID = patient.PatientID
    ds.PatientSex = patient.PatientSex
    ds.PatientBirthDate = f"{patient.PatientBirthDate:%Y%m%d}" if patient.PatientBirthDate else ""
    ds.StudyID = "1"
    ds.SeriesNumber = "1"
    ds.InstanceNumber = str(number)
    if body_part:
        ds.BodyPartExamined = body_part
    _describe_acquisition(ds, kind, photometric_interpretation, laterality, spacing_mm)
    _set_pixels(ds, picture, photometric_interpretation, bits_stored)
    encode(ds, UID(transfer_syntax))
    return ds


def encode(ds: Dataset, transfer_syntax: UID) -> None:
    """Bring the native pixels of `ds` into a transfer syntax, in place, and write its file meta information.

    Raises
    ------
    ValueError
        When the codec cannot hold these pixels.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if transfer_syntax.is_compressed else transfer_syntax
    ds.file_meta = meta
    if transfer_syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, dtype="<u2").astype(">u2").tobytes()
    elif transfer_syntax == JPEGBaseline8Bit:
        if ds.BitsStored != 8:
            raise ValueError(f"JPEG baseline holds 8 bits a sample, the picture has {ds.BitsStored}")
        shape = (ds.Rows, ds.Columns) if ds.SamplesPerPixel == 1 else (ds.Rows, ds.Columns, 3)
        stream = BytesIO()
        Pillow.fromarray(np.frombuffer(ds.PixelData, np.uint8)[: int(np.prod(shape))].reshape(shape)).save(
            stream, "JPEG", quality=95
        )
        ds.PixelData = encapsulate([stream.getvalue()])
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionRatio = f"{np.prod(shape) / len(stream.getvalue()):.2f}"
        ds.LossyImageCompressionMethod = "ISO_10918_1"
        meta.TransferSyntaxUID = transfer_syntax
    elif transfer_syntax.is_encapsulated and not transfer_syntax.is_deflated:
        try:
            ds.compress(transfer_syntax, generate_instance_uid=False)
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(f"cannot encode as {transfer_syntax.name}: {error}") from error
    else:
        meta.TransferSyntaxUID = transfer_syntax


def save(ds: Dataset, path: Path) -> Path:
    """Write a wrapped instance as a DICOM file (PS3.10) and return its path."""
    ds.save_as(path, enforce_file_format=True)
    return path


def _describe_acquisition(
    ds: Dataset, kind: Kind, photometric: Photometric, laterality: str, spacing_mm: tuple[float, float] | None
) -> None:
    """Write what the modules of each kind require (PS3.3 C.8.1, C.8.11, C.8.6)."""
    ds.PatientOrientation = ""
    if kind == "SC":
        ds.ConversionType = "WSD"
        if laterality:
            ds.Laterality = laterality
        if spacing_mm is not None:
            ds.NominalScannedPixelSpacing = _decimals(spacing_mm)
        return
    if spacing_mm is not None:
        ds.ImagerPixelSpacing = _decimals(spacing_mm)
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.KVP = "50"
    if kind == "CR":
        ds.ViewPosition = "PA"
        if laterality:
            ds.Laterality = laterality
        return
    ds.PresentationIntentType = "FOR PRESENTATION" if kind == "DX" else "FOR PROCESSING"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.ImageLaterality = laterality or "U"
    ds.PatientOrientation = ["L", "F"] if laterality == "L" else ["R", "F"]
    ds.ViewPosition = "PA"
    ds.DetectorType = "DIRECT"
    ds.PositionerType = "NONE"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if photometric == "MONOCHROME2" else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "IDENTITY" if photometric == "MONOCHROME2" else "INVERSE"
    ds.AcquisitionContextSequence = Sequence()
    region = Dataset()
    if ds.get("BodyPartExamined", "HAND") == "HAND":
        region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "85562004", "SCT", "Hand"
    else:
        region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "38866009", "SCT", "Body Part"
    ds.AnatomicRegionSequence = Sequence([region])


def _decimals(spacing_mm: tuple[float, float]) -> list[DSfloat]:
    """Return a spacing in at most 16 characters each (PS3.5 6.2, DS), as close as they allow."""
    return [DSfloat(value, auto_format=True) for value in spacing_mm]


def _set_pixels(ds: Dataset, picture: Image | NDArray[Any], photometric: Photometric, bits_stored: int) -> None:
    """Write Image Pixel module (PS3.3 C.7.6.3) and, for grey films, a window that shows all of it."""
    if isinstance(picture, Image):
        top = 2**bits_stored - 1
        levels = np.rint(picture.pixels * top)
        levels = top - levels if photometric == "MONOCHROME1" else levels
        array: NDArray[Any] = levels.astype(np.uint8 if bits_stored <= 8 else np.uint16)
    else:
        array = np.ascontiguousarray(picture)
        bits_stored = 8 if array.dtype == np.uint8 else bits_stored
    colour = array.ndim == 3
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or (colour and array.shape[2] != 3):
        raise ValueError(f"a picture of {array.dtype} {array.shape} cannot be wrapped")
    if colour and (array.dtype != np.uint8 or ds.SOPClassUID != SecondaryCaptureImageStorage):
        raise ValueError("a colour picture is wrapped as 8 bit Secondary Capture only")
    if int(array.max()) >= 2**bits_stored:
        raise ValueError(f"grey level {int(array.max())} does not fit into {bits_stored} bits")
    ds.Rows, ds.Columns = array.shape[:2]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else photometric
    if colour:
        ds.PlanarConfiguration = 0
    elif ds.SOPClassUID != DigitalXRayImageStorageForProcessing:
        ds.WindowCenter, ds.WindowWidth = str(2 ** (bits_stored - 1)), str(2**bits_stored)
    ds.BitsAllocated = array.dtype.itemsize * 8
    ds.BitsStored = bits_stored
    ds.HighBit = bits_stored - 1
    ds.PixelRepresentation = 0
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    # PS3.5 8.1.1: OW for 16 bits allocated, OB where 8 are; the length is even.
    ds.add_new("PixelData", "OB" if ds.BitsAllocated == 8 else "OW", data + b"\0" * (len(data) % 2))
