"""Turn a DICOM data set into an `Image`: decode, modality LUT, scale, polarity by the header, spacing, side."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.image import Image
from models.pixels.errors import DECODER_ERRORS, UnreadablePixels, first_line, panics_are_errors, texts
from models.pixels.guards import check_code_streams, check_header, check_inflated_size, integer
from models.pixels.levels import scale
from models.regions import Laterality

if TYPE_CHECKING:  # `import models` loads no pydicom
    from pydicom import Dataset


def load_dicom(path: Path) -> Image:
    """Load a DICOM file, with or without preamble; a deflated one is measured before it is inflated."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        check_inflated_size(path)
        with warnings.catch_warnings(record=True) as tolerated:
            warnings.simplefilter("always")
            ds = pydicom.dcmread(path, force=True)
        return from_dataset(ds, notes=texts(tolerated))
    except UnreadablePixels:
        raise
    except (*DECODER_ERRORS, InvalidDicomError) as error:
        raise UnreadablePixels("truncated", f"{path.name} is not a complete DICOM file: {first_line(error)}") from error


def from_dataset(ds: "Dataset", *, notes: tuple[str, ...] = ()) -> Image:
    """Turn a DICOM data set into an `Image`.

    The modality LUT is applied (PS3.3 C.11.1), a VOI LUT is not: grey levels are scaled by their own percentiles, so that
    a film does not depend on the window somebody saved. MONOCHROME1 is inverted.

    Raises
    ------
    UnreadablePixels
        ``no-pixel-data``, ``colour``, ``multi-frame``, ``too-large``, ``too-small``, ``truncated``,
        ``unsupported-transfer-syntax`` or ``undecodable``.
    """
    check_header(ds)
    with warnings.catch_warnings(record=True) as tolerated:
        warnings.simplefilter("always")
        levels = _decode(ds)
    remarks = [*notes, *texts(tolerated)]
    interpretation = str(ds.PhotometricInterpretation)
    if ds.get("PresentationLUTShape") == ("IDENTITY" if interpretation == "MONOCHROME1" else "INVERSE"):
        # PS3.3 C.8.11.3.1.2 forbids the pair, some vendors write it; a second inversion would follow a wrong header.
        remarks.append(
            f"PresentationLUTShape {ds.PresentationLUTShape} contradicts {interpretation}; the latter is followed"
        )
    padding = _padding(ds, levels, remarks)
    values = _modality(ds, levels, remarks)
    scaled = scale(values, padding)
    if interpretation == "MONOCHROME1":
        scaled = np.float32(1) - scaled
    if padding is not None:
        scaled[padding] = 0
    return Image(
        pixels=scaled,
        photometric_interpretation=interpretation,
        bits_stored=int(ds.get("BitsStored", 8 * levels.dtype.itemsize)),
        pixel_spacing_mm=_spacing(ds, remarks),
        laterality=_laterality(ds, remarks),
        notes=tuple(remarks),
    )


def _decode(ds: "Dataset") -> NDArray[Any]:
    """Decode the stored samples: (rows, columns), integers as stored."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = _transfer_syntax(ds)
    rows, columns = int(ds.Rows), int(ds.Columns)
    if syntax.is_compressed and syntax.is_encapsulated:
        try:
            decoder = get_decoder(UID(syntax))
        except NotImplementedError as error:
            raise UnreadablePixels(
                "unsupported-transfer-syntax", f"no decoder for transfer syntax {syntax} ({syntax.name})"
            ) from error
        if not decoder.is_available:
            raise UnreadablePixels(
                "unsupported-transfer-syntax", f"no codec installed for transfer syntax {syntax} ({syntax.name})"
            )
        check_code_streams(ds, syntax)
    elif "PixelData" in ds:
        expected = (rows * columns * int(ds.BitsAllocated) + 7) // 8
        if len(ds.PixelData) < expected:
            raise UnreadablePixels(
                "truncated", f"{len(ds.PixelData)} bytes of pixel data; {rows} x {columns} need {expected}"
            )
    try:
        with panics_are_errors():
            array: NDArray[Any] = ds.pixel_array
    except DECODER_ERRORS as error:
        raise UnreadablePixels(
            "undecodable", f"{syntax.name} ({syntax}) could not be decoded: {first_line(error)}"
        ) from error
    if array.shape != (rows, columns):
        raise UnreadablePixels("undecodable", f"decoded to {array.shape}; the header says {rows} x {columns}")
    return array


def _transfer_syntax(ds: "Dataset") -> Any:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    meta = getattr(ds, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if not syntax:  # a file without meta information: uncompressed, in the encoding it was parsed with
        from pydicom.dataset import FileMetaDataset

        implicit, little = ds.original_encoding
        syntax = (
            ImplicitVRLittleEndian if implicit else ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian
        )
        ds.file_meta = meta if meta is not None else FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise UnreadablePixels("unsupported-transfer-syntax", f"{syntax} is not a standard transfer syntax")
    return syntax


def _padding(ds: "Dataset", levels: NDArray[Any], remarks: list[str]) -> NDArray[np.bool_] | None:
    """Find the samples that are no image at all (PS3.3 C.7.5.1.1.2); None where there are none."""
    first = ds.get("PixelPaddingValue")
    if first is None:
        return None
    try:
        last = int(ds.get("PixelPaddingRangeLimit", first))
        low, high = sorted((int(first), last))
    except (TypeError, ValueError):
        remarks.append("PixelPaddingValue is not a number and was ignored")
        return None
    padded = (levels >= low) & (levels <= high)
    return padded if padded.any() and not padded.all() else None


def _modality(ds: "Dataset", levels: NDArray[Any], remarks: list[str]) -> NDArray[Any]:
    from pydicom.pixels.processing import apply_modality_lut

    high = integer(ds, "HighBit", integer(ds, "BitsStored", 1) - 1)
    if levels.dtype.kind == "u" and high < 8 * levels.dtype.itemsize - 1 and int(levels.max()) >= 1 << (high + 1):
        remarks.append(f"bits above HighBit {high} were set and are ignored")
        levels = levels & ((1 << (high + 1)) - 1)
    slope, intercept = ds.get("RescaleSlope", 1), ds.get("RescaleIntercept", 0)
    try:
        if (
            "ModalityLUTSequence" in ds or slope != 1 or intercept != 0
        ):  # a table of no effect makes eight bytes of each level
            levels = np.asarray(apply_modality_lut(levels, ds))
    except DECODER_ERRORS as error:
        raise UnreadablePixels("undecodable", f"the modality LUT cannot be applied: {first_line(error)}") from error
    if levels.dtype.kind == "f" and not (finite := np.isfinite(levels)).all():
        raise UnreadablePixels(
            "undecodable",
            f"{int((~finite).sum())} of {levels.size} grey levels are no finite number "
            f"(RescaleSlope {slope}, RescaleIntercept {intercept})",
        )
    return levels


def _spacing(ds: "Dataset", remarks: list[str]) -> tuple[float, float] | None:
    """Row and column spacing in mm; ImagerPixelSpacing is the detector's plane, which is what the name promises."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        value = ds.get(keyword)
        if not value:
            continue
        try:
            rows_mm, columns_mm = (float(part) for part in value)
        except (TypeError, ValueError):
            remarks.append(f"{keyword} is not a pair of numbers and was ignored")
            continue
        if 0.01 <= rows_mm <= 5 and 0.01 <= columns_mm <= 5:
            return rows_mm, columns_mm
        remarks.append(f"{keyword} {rows_mm} x {columns_mm} mm is outside 0.01 to 5 mm and was ignored")
    return None


def _laterality(ds: "Dataset", remarks: list[str]) -> Laterality | None:
    """Take the side from ImageLaterality (DX), else Laterality (series); B, U and contradictions give None."""
    sides = {str(ds.get(keyword) or "") for keyword in ("ImageLaterality", "Laterality")} & {"L", "R"}
    if len(sides) > 1:
        remarks.append("ImageLaterality and Laterality contradict each other; neither is followed")
        return None
    if not sides:
        return None
    return "L" if sides == {"L"} else "R"
