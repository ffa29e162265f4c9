"""Write the outlines of radius and ulna as a Segmentation: one binary frame a bone, pixel for pixel on the film.

A projection radiograph has no position in the patient, yet OHIF opens a Segmentation only with pixel measures, plane
orientation and plane position. Those written here are the detector's plane (unit axes, origin zero), not a place in the
patient; there is no Frame of Reference UID that would claim one.
"""

import copy
from collections.abc import Sequence
from typing import Final

import numpy as np
from highdicom import (
    AlgorithmIdentificationSequence,
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
)
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.reading import Reading
from models.regions import SEGMENTED
from service.reporting import codes, results
from service.reporting.codes import Language
from service.reporting.results import ResultContext
from service.reporting.source import Source

# Orange and light blue, as on the overview picture; CIELab (PS3.3 C.10.7.1.1).
COLOURS: Final = {"radius": CIELabColor(72, 39, 46), "ulna": CIELabColor(78, -17, -34)}
# A projection has no slice; the attribute is required in Pixel Measures when there is a position (PS3.3 C.7.6.16.2.1).
SLICE_THICKNESS_MM: Final = 1.0


def build(source: Source, reading: Reading, context: ResultContext) -> Dataset | None:
    """Return the segmentation, or None where the reading holds no outline: there is nothing to send then.

    Raises
    ------
    ValueError
        When the reading is of a film of another size than the header states.
    """
    names = segments(reading)
    if not names:
        return None
    rows, columns = reading.image.rows, reading.image.columns
    if (source.rows, source.columns) != (rows, columns):
        raise ValueError(f"the header states {source.rows} x {source.columns} pixels, the reading {rows} x {columns}")
    language = results.language_for(source, context)
    where = results.reference(source, "SEG", reading, context)

    def uid(*parts: str) -> str:
        return results.result_uid(source, reading.bundle.sha256, "SEG", context, results.inputs(reading), *parts)

    segmentation = Segmentation(
        source_images=[_plane_header(source)],
        pixel_array=_stack(reading, names, rows, columns),
        segmentation_type="BINARY",
        segment_descriptions=[
            _segment(number, name, reading, language, uid("segment", name)) for number, name in enumerate(names, 1)
        ],
        series_instance_uid=where.SeriesInstanceUID,
        series_number=context.series["SEG"].number,
        sop_instance_uid=where.SOPInstanceUID,
        instance_number=1,
        manufacturer=results.MANUFACTURER,
        manufacturer_model_name=results.MODEL_NAME,
        software_versions=context.software_version,
        device_serial_number=context.device_serial_number,
        content_label="RADIUS_ULNA",
        content_description=codes_description(language),
        content_creator_name="Carpus^^^^",
        pixel_measures=PixelMeasuresSequence(list(_spacing(source)), SLICE_THICKNESS_MM),
        omit_empty_frames=False,
    )
    # highdicom refuses a plane without a Frame of Reference, the standard and OHIF do not.
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", [1, 0, 0, 0, 1, 0])
    shared.PlanePositionSequence = PlanePositionSequence("PATIENT", [0, 0, 0])
    # highdicom draws random UIDs for these; a repeat must send the same instance.
    organization = uid("dimensions")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    # PS3.3 C.7.6.1.1.1, type 2C: required because the plane above is no plane of the patient.
    segmentation.PatientOrientation = source.header.get("PatientOrientation", "")
    return results.finish(segmentation, source, "SEG", context)


def segments(reading: Reading) -> tuple[str, ...]:
    """Return the bones that were outlined; the first is segment 1."""
    return tuple(name for name in SEGMENTED if name in reading.masks)


def codes_description(language: Language) -> str:
    """Return the Content Description."""
    return "桡骨远端与尺骨远端" if language == "zh" else "Distal radius and distal ulna"


def _stack(reading: Reading, names: Sequence[str], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the masks as (1 frame, rows, columns, segments); each lies whole in memory, for highdicom sums over the segments."""
    return np.moveaxis(np.stack([reading.masks[name].to_array(rows, columns) for name in names]), 0, -1)[None]


def _spacing(source: Source) -> tuple[float, float]:
    """Return the spacing the film states, in the plane of the detector if it states two; 1 mm where it states none."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        if keyword in source.header:
            row, column = source.header[keyword].value
            return float(row), float(column)
    return 1.0, 1.0


def _segment(number: int, name: str, reading: Reading, language: Language, uid: str) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=number,
        segment_label=codes.SITES[name].code(language).meaning,
        segmented_property_category=codes.ANATOMICAL_STRUCTURE.code(language),
        segmented_property_type=codes.SITES[name].code(language),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=results.MODEL_NAME,
            family=codes.ARTIFICIAL_INTELLIGENCE.code(),
            version=reading.bundle.version,
            parameters={"bundle": reading.bundle.name, "sha256": reading.bundle.sha256},
        ),
        tracking_uid=uid,
        tracking_id=name,
        display_color=COLOURS[name],
    )
    side = codes.LATERALITIES.get(reading.image.laterality or reading.image.laterality_declared or "")
    if side is not None:
        modifier = CodedConcept.from_code(side.code(language))
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def _plane_header(source: Source) -> Dataset:
    """Return the header as highdicom wants a source image."""
    header = copy.deepcopy(source.header)
    header.ImageType = ["ORIGINAL", "PRIMARY"]
    return header
