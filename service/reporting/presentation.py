"""Write the regions as a Grayscale Softcopy Presentation State: boxes, names and stages over the untouched film.

Graphics only: the film's own modality and VOI transformations are repeated, for a presentation state replaces them. Positions
are in pixels from the outer corner of the first one (PS3.3 C.10.5.1.2), which is how a Reading counts too.
"""

import copy
from collections.abc import Iterator
from typing import Final

import numpy as np
from highdicom import PresentationLUTTransformation
from highdicom.color import CIELabColor
from highdicom.pr import (
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    TextObject,
)
from pydicom.dataset import Dataset

from models.overlay import STAGE_COLOURS, UNGRADED
from models.reading import CONTRADICTED, Reading, Region
from service.reporting import results, wording
from service.reporting.codes import Language
from service.reporting.measurement_report import polyline
from service.reporting.results import DISCLAIMER, ResultContext
from service.reporting.source import Source

UNGRADED_LAYER: Final = "UNGRADED"
SUMMARY_LAYER: Final = "SUMMARY"
SUMMARY_COLOUR: Final = (255, 255, 255)
# Height of a line of text as a part of the film's height, and width of a letter as a part of that.
LINE: Final = 1 / 55
LETTER: Final = 0.62


def build(source: Source, reading: Reading, context: ResultContext) -> Dataset:
    """Return the presentation state of an accepted film.

    Raises
    ------
    ValueError
        When the reading is of a film of another size than the header states.
    """
    rows, columns = reading.image.rows, reading.image.columns
    if (source.rows, source.columns) != (rows, columns):
        raise ValueError(f"the header states {source.rows} x {source.columns} pixels, the reading {rows} x {columns}")
    language = results.language_for(source, context)
    header = _image_header(source)
    where = results.reference(source, "GSPS", reading, context)

    layers = dict(_layers(reading))
    annotations = [
        GraphicAnnotation(
            referenced_images=[header],
            graphic_layer=layer,
            graphic_objects=[_outline(region, rows, columns) for region in reading.regions if layer_of(region) == name],
            text_objects=[_label(region, rows, columns) for region in reading.regions if layer_of(region) == name],
        )
        for name, layer in layers.items()
        if name != SUMMARY_LAYER
    ]
    annotations.append(
        GraphicAnnotation(
            referenced_images=[header],
            graphic_layer=layers[SUMMARY_LAYER],
            text_objects=list(_summary(reading, language, rows, columns)),
        )
    )
    state = GrayscaleSoftcopyPresentationState(
        referenced_images=[header],
        series_instance_uid=where.SeriesInstanceUID,
        series_number=context.series["GSPS"].number,
        sop_instance_uid=where.SOPInstanceUID,
        instance_number=1,
        manufacturer=results.MANUFACTURER,
        manufacturer_model_name=results.MODEL_NAME,
        software_versions=context.software_version,
        device_serial_number=context.device_serial_number,
        content_label="BONE_AGE",
        content_description="骨龄判读区域" if language == "zh" else "Regions read for bone age",
        content_creator_name="Carpus^^^^",
        graphic_annotations=annotations,
        graphic_layers=list(layers.values()),
        # A presentation state ignores the film's photometric interpretation (PS3.3 C.11.6): MONOCHROME1 must be inverted here.
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if header.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
        ),
        institution_name=context.institution_name or None,
    )
    # PS3.3 C.7.3.1, type 2C: required for a paired body part, and a presentation state carries no Image Laterality.
    results.state_laterality(state, source, reading.image.laterality)
    created_at = results.local_time(source, context)
    state.PresentationCreationDate = f"{created_at:%Y%m%d}"
    state.PresentationCreationTime = f"{created_at:%H%M%S.%f}"
    return results.finish(state, source, "GSPS", context)


def layer_of(region: Region) -> str:
    """Return the layer of a region: one for each TW3 stage, so that a viewer colours and hides them by stage."""
    return UNGRADED_LAYER if region.stage is None else f"STAGE_{region.stage.letter}"


def _layers(reading: Reading) -> Iterator[tuple[str, GraphicLayer]]:
    used = {layer_of(region) for region in reading.regions}
    colours = {f"STAGE_{letter}": rgb for letter, rgb in STAGE_COLOURS.items()} | {UNGRADED_LAYER: UNGRADED}
    order = 0
    for name, rgb in colours.items():
        if name in used:
            order += 1
            yield name, GraphicLayer(name, order, display_color=lab(rgb))
    yield SUMMARY_LAYER, GraphicLayer(SUMMARY_LAYER, order + 1, display_color=lab(SUMMARY_COLOUR))


def _outline(region: Region, rows: int, columns: int) -> GraphicObject:
    return GraphicObject("POLYLINE", polyline(region.box, rows, columns), units="PIXEL", tracking_id=None)


def _label(region: Region, rows: int, columns: int) -> TextObject:
    """Place the name and stage above the box, or under it where the film ends; "!" marks what the other bones contradict."""
    text = region.name.upper()
    if region.stage is not None:
        text += f" {region.stage.label} ({region.stage.letter}){' !' if CONTRADICTED in region.flags else ''}"
    points = polyline(region.box, rows, columns)
    left, top, bottom = points[0, 0], points[0, 1], points[2, 1]
    height = rows * LINE
    width = min(float(columns), height * LETTER * len(text))
    left = min(left, columns - width)
    y = top - height if top >= height else min(bottom, rows - height)
    return TextObject(text, "PIXEL", bounding_box=(left, y, left + width, y + height), text_justification="LEFT")


def _summary(reading: Reading, language: Language, rows: int, columns: int) -> Iterator[TextObject]:
    """Write the bone ages and the disclaimer into the upper left corner."""
    height = rows * LINE
    lines = [wording.method_sentence(method, language) for method in wording.in_order(reading)]
    for index, line in enumerate([*lines, DISCLAIMER[language]]):
        y = height * (1 + 1.3 * index)
        if y + height > rows:
            return
        box = (0.01 * columns, y, 0.99 * columns, y + height)
        yield TextObject(line[:1024], "PIXEL", bounding_box=box, text_justification="LEFT")


def lab(rgb: tuple[int, int, int]) -> CIELabColor:
    """Convert sRGB to CIELab under D50, as PS3.3 C.10.7.1.1 asks for (Bradford-adapted sRGB matrix)."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(rgb) / 255])
    matrix = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7142]])
    ratio = matrix @ linear / np.array([0.9642, 1.0, 0.8249])
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return CIELabColor(float(116 * y - 16), float(500 * (x - y)), float(200 * (y - z)))


def _image_header(source: Source) -> Dataset:
    """Return the header as highdicom wants a referenced image; a film read is single-channel by then."""
    header = copy.deepcopy(source.header)
    header.SamplesPerPixel = 1
    if "PhotometricInterpretation" not in header:
        header.PhotometricInterpretation = "MONOCHROME2"
    return header
