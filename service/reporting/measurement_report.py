"""Assemble a TID 1500 Measurement Report (PS3.16) around one film.

highdicom builds the template; here stands what it leaves to the caller or what validators and viewers showed to be needed:
a clean header for the image library, a region in every group, SEPARATE continuity, and identifiers that a repeat derives again.
"""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Final

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContainerContentItem,
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
    FindingSite,
    GraphicTypeValues,
    ImageContentItem,
    ImageRegion,
    LanguageOfContentItemAndDescendants,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr.coding import CodedConcept
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DataElementSequence
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.tag import BaseTag, Tag
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from models.reading import Box
from service.reporting import codes, results
from service.reporting.codes import Concept, Language
from service.reporting.encoding import CONTENT
from service.reporting.results import Reference, ResultContext
from service.reporting.source import Source

Group = PlanarROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations
ContentItem = NumContentItem | CodeContentItem | TextContentItem | ImageContentItem
# RFC 5646 tags as CID 5000 has them.
LANGUAGES: Final = {
    "en": CodedConcept("en-US", "RFC5646", "English (United States)"),
    "zh": CodedConcept("zh-CN", "RFC5646", "Chinese (S)"),
}
Elements = dict[BaseTag, DataElement | RawDataElement]
Outline = np.ndarray[tuple[int, int], np.dtype[np.float64]]
CONTAINS: Final = RelationshipTypeValues.CONTAINS
_VALUE_TYPE: Final = Tag("ValueType")
PROPERTY: Final = RelationshipTypeValues.HAS_PROPERTIES
MODIFIER: Final = RelationshipTypeValues.HAS_CONCEPT_MOD
# The content is two-dimensional, so each of these holds it; which one is written is settled with the destination.
CLASSES: Final = {
    Comprehensive3DSRStorage: Comprehensive3DSR,
    ComprehensiveSRStorage: ComprehensiveSR,
    EnhancedSRStorage: EnhancedSR,
}


def hold(item: Dataset, content: Iterable[Dataset]) -> None:
    """Give an item its content as a plain sequence: highdicom's own kind hashes the name of every item, twice."""
    item.add(DataElement(CONTENT, "SQ", DataElementSequence(content)))


@cache
def coded(concept: Concept, language: Language) -> CodedConcept:
    """Return a concept for the content tree; one object for all its uses, since a report holds some 1,400 of them."""
    return CodedConcept.from_code(concept.code(language))


def number(
    name: Concept,
    value: float,
    unit: Concept,
    language: Language,
    *,
    decimals: int = 2,
    relationship: RelationshipTypeValues = CONTAINS,
    children: Sequence[ContentItem] = (),
) -> NumContentItem:
    """Make a NUM item: rounded for people in Numeric Value, exact in Floating Point Value (PS3.3 C.18.1)."""
    like, units = _unmeasured(name, unit, language, relationship)
    item = NumContentItem.__new__(NumContentItem)
    Dataset.__init__(item, dict(like))
    measured = Dataset(dict(units))
    measured.NumericValue = f"{value:.{decimals}f}"
    measured.FloatingPointValue = float(value)
    item.MeasuredValueSequence = [measured]
    if children:
        hold(item, children)
    return item


@cache
def _unmeasured(
    name: Concept, unit: Concept, language: Language, relationship: RelationshipTypeValues
) -> tuple[Elements, Elements]:
    """Make what NUM items of this kind share, of the item and of its measured value: a report holds 150, of some ten kinds."""
    item = NumContentItem(coded(name, language), 0.0, coded(unit, language), relationship_type=relationship)
    measured = item.MeasuredValueSequence[0]
    del item.MeasuredValueSequence, measured.NumericValue, measured.FloatingPointValue
    return dict(item.items()), dict(measured.items())


@cache
def code(
    name: Concept, value: Concept, language: Language, *, relationship: RelationshipTypeValues = CONTAINS
) -> CodeContentItem:
    """Make a CODE item; one object for all its uses, as `coded`: nobody changes it but `translate`, always the same way."""
    return CodeContentItem(coded(name, language), coded(value, language), relationship_type=relationship)


def text(name: Concept, value: str, language: Language) -> TextContentItem:
    """Make a TEXT item."""
    return TextContentItem(coded(name, language), value, relationship_type=CONTAINS)


def segment(name: Concept, where: Reference, place: int, language: Language) -> ImageContentItem:
    """Make an IMAGE item that refers to one segment of a Segmentation.

    The region of the group stays its SCOORD: a second one would break the exclusive rows of TID 1410, and OHIF draws no
    region given by a segment alone.
    """
    return ImageContentItem(
        coded(name, language),
        where.SOPClassUID,
        where.SOPInstanceUID,
        referenced_segment_numbers=[place],
        relationship_type=CONTAINS,
    )


def group(
    source: Source,
    language: Language,
    *,
    tracking_identifier: str,
    tracking_uid: str,
    finding: Concept,
    items: Sequence[ContentItem],
    algorithm: AlgorithmIdentification | None = None,
    box: Box | None = None,
    site: Concept | None = None,
    laterality: str | None = None,
    method: Concept | None = None,
) -> Group:
    """Make one measurement group: TID 1410 around `box`, or TID 1501 where the film has no geometry to draw in.

    The box becomes a closed POLYLINE of five points, x to the right and y down from the outer corner of the first pixel
    (PS3.3 C.18.6.1.2), clipped to the film.
    """
    tracking = TrackingIdentifier(uid=tracking_uid, identifier=tracking_identifier)
    finding_type = coded(finding, language)
    sites = None if site is None else [_site(site, laterality, language)]
    by = None if method is None else coded(method, language)
    made: Group
    if box is not None and source.rows is not None and source.columns is not None:
        made = PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            referenced_region=_region(source, language, polyline(box, source.rows, source.columns)),
            finding_type=finding_type,
            algorithm_id=algorithm,
            finding_sites=sites,
            method=by,
        )
    else:
        made = MeasurementsAndQualitativeEvaluations(
            source_images=[SourceImageForMeasurementGroup(source.header.SOPClassUID, source.SOPInstanceUID)],
            tracking_identifier=tracking,
            finding_type=finding_type,
            algorithm_id=algorithm,
            finding_sites=sites,
            method=by,
        )
    content = made[0].ContentSequence
    for item in () if method is None else content.find(dicom_codes.SCT.MeasurementMethod):
        item.RelationshipType = MODIFIER.value  # TID 1501 row 5; highdicom writes CONTAINS
    hold(made[0], (*content, *items))
    return made


def _region(source: Source, language: Language, outline: Outline) -> ImageRegion:
    """Make the SCOORD item of an outline."""
    region = ImageRegion.__new__(ImageRegion)
    Dataset.__init__(region, dict(_unplaced(source.header.SOPClassUID, source.SOPInstanceUID, language)))
    region.GraphicData = outline.ravel().tolist()
    return region


@lru_cache(maxsize=1)
def _unplaced(sop_class_uid: str, sop_instance_uid: str, _language: Language) -> Elements:
    """Make what the regions of one film share in one language (`translate` changes them); a report holds some twenty."""
    source = SourceImageForRegion(sop_class_uid, sop_instance_uid)
    region = ImageRegion(GraphicTypeValues.POLYLINE, np.zeros((2, 2)), source)
    del region.GraphicData
    return dict(region.items())


def polyline(box: Box, rows: int, columns: int) -> Outline:
    """Return the closed outline of a box as (5, 2) column and row coordinates within the film."""
    x1, x2 = (min(max(float(x), 0.0), float(columns)) for x in (box[0], box[2]))
    y1, y2 = (min(max(float(y), 0.0), float(rows)) for y in (box[1], box[3]))
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])


def assemble(
    source: Source,
    context: ResultContext,
    *,
    groups: Sequence[Group],
    conclusion: str,
    sop_instance_uid: str,
    series_instance_uid: str,
    cited: Sequence[Reference] = (),
    earlier: ContainerContentItem | None = None,
) -> Dataset:
    """Return the finished report: COMPLETE, UNVERIFIED, PRELIMINARY; FINAL and VERIFIED where a person verified it.

    Parameters
    ----------
    earlier
        The earlier bone ages of the patient; stands after the measurements.
    """
    language = results.language_for(source, context)
    amendment = context.amendment
    verified = amendment is not None and amendment.verified
    header = _library_header(source)
    content = MeasurementReport(
        observation_context=_observers(context),
        procedure_reported=coded(codes.PROCEDURE, language),
        # The constructor below copies and searches all content several times; one group without findings is enough for it to
        # collect the evidence, all of them follow afterwards.
        imaging_measurements=[_bare(source, language)],
        title=coded(codes.TITLE, language),
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(LANGUAGES[language]),
        # The image library describes pixels: an instance that states no size cannot stand in it.
        referenced_images=[header] if source.rows is not None else None,
    )
    report = CLASSES[context.report_class](
        evidence=[header],
        content=content[0],
        series_instance_uid=series_instance_uid,
        series_number=context.series["SR"].number,
        sop_instance_uid=sop_instance_uid,
        instance_number=1,
        is_complete=True,
        is_final=verified,
        is_verified=verified,
        verifying_observer_name=amendment.observer if amendment is not None and verified else None,
        verifying_organization=amendment.organisation if amendment is not None and verified else None,
        previous_versions=_predecessors(source, context),
        performed_procedure_codes=[coded(codes.PROCEDURE, language)],
        specific_character_set=None,
    )
    measurements = next(item for item in report.ContentSequence if item.name == dicom_codes.DCM.ImagingMeasurements)
    hold(measurements, (item for each in groups for item in each))
    conclusions = ContainerContentItem(coded(codes.CONCLUSIONS, language), relationship_type=CONTAINS)
    if "ISO 2022 IR 58" in results.character_set(source, context):
        # PS3.5 6.1.2.5.3: a line break ends the escape into GB 2312, and pydicom escapes once a value.
        conclusion = conclusion.replace("\n", " ")
    hold(conclusions, [text(codes.CONCLUSION, conclusion, language)])
    # TID 1500 is extensible: what a person wants to read first stands before the image library and the measurements.
    first_container = next(i for i, item in enumerate(report.ContentSequence) if item.ValueType == "CONTAINER")
    report.ContentSequence.insert(first_container, conclusions)
    if earlier is not None:
        report.ContentSequence.append(earlier)
    separate(report)
    for observer in report.get("VerifyingObserverSequence", ()):
        observer.VerificationDateTime = f"{results.local_time(source, context):%Y%m%d%H%M%S.%f%z}"
    if language == "zh":
        translate(report)
    if cited:
        _cite(report, source, cited)
    return results.finish(report, source, "SR", context)


def _bare(source: Source, language: Language) -> Group:
    """Make a group that says no more than which film it is of."""
    uid = source.SOPInstanceUID
    whole = (0.0, 0.0, float(source.columns or 0), float(source.rows or 0))
    return group(source, language, tracking_identifier=uid, tracking_uid=uid, finding=codes.TITLE, items=(), box=whole)


def separate(item: Dataset) -> None:
    """Set SEPARATE on every container, so that a reader shows each value with its name (PS3.3 C.18.8).

    In TID 1500 containers stand in containers alone.
    """
    item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence", ()):
        if child[_VALUE_TYPE].value == "CONTAINER":
            separate(child)


def translate(item: Dataset) -> None:
    """Give what the library wrote its Chinese meaning, where the table of concepts has one."""
    for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
        for found in item.get(keyword, ()):
            concept = codes.translations().get((found.CodingSchemeDesignator, found.get("CodeValue", "")))
            if concept is not None and found.CodeMeaning != concept.chinese:
                setattr(item, keyword, [coded(concept, "zh")])
    for child in item.get("ContentSequence", ()):
        translate(child)


def _cite(report: Dataset, source: Source, cited: Sequence[Reference]) -> None:
    """Add objects of our own to the evidence of the film's study (PS3.3 C.17.2): the report refers to them."""
    (study,) = (
        each
        for each in report.CurrentRequestedProcedureEvidenceSequence
        if each.StudyInstanceUID == source.header.StudyInstanceUID
    )
    for each in cited:
        instance, series = Dataset(), Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = each.SOPClassUID, each.SOPInstanceUID
        series.SeriesInstanceUID, series.ReferencedSOPSequence = each.SeriesInstanceUID, [instance]
        study.ReferencedSeriesSequence.append(series)


def _predecessors(source: Source, context: ResultContext) -> list[Dataset] | None:
    """PS3.3 C.17.2: name the report that this one takes the place of; it belongs to the same study."""
    predecessor = None if context.amendment is None else context.amendment.predecessor
    if predecessor is None:
        return None
    item = Dataset()
    item.StudyInstanceUID = source.header.StudyInstanceUID
    item.SeriesInstanceUID = predecessor.SeriesInstanceUID
    item.SOPClassUID = predecessor.SOPClassUID
    item.SOPInstanceUID = predecessor.SOPInstanceUID
    return [item]


def _observers(context: ResultContext) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=context.device_uid,
        name=results.MODEL_NAME,
        manufacturer_name=results.MANUFACTURER,
        model_name=results.MODEL_NAME,
        serial_number=context.device_serial_number,
    )
    observer = ObserverContext(observer_type=dicom_codes.DCM.Device, observer_identifying_attributes=device)
    if context.amendment is None:
        return ObservationContext(observer_device_context=observer)
    person = PersonObserverIdentifyingAttributes(
        name=context.amendment.observer, organization_name=context.amendment.organisation or None
    )
    corrected_by = ObserverContext(observer_type=dicom_codes.DCM.Person, observer_identifying_attributes=person)
    return ObservationContext(observer_person_context=corrected_by, observer_device_context=observer)


@cache
def _site(site: Concept, laterality: str | None, language: Language) -> FindingSite:
    side = codes.LATERALITIES.get(laterality or "")
    return FindingSite(coded(site, language), None if side is None else coded(side, language))


def _library_header(source: Source) -> Dataset:
    """Return the header as TID 1603 wants it; what the film does not state is not made up.

    The row demands orientation and spacing together. Without both the image is entered under a modality for which only its
    size is written; its SOP class, and so the coded modality, stays.
    """
    header = Dataset()
    header.update(source.header)  # shares the elements: what is changed below becomes an element of its own
    if "ImagerPixelSpacing" not in header and "PixelSpacing" in header:
        header.ImagerPixelSpacing = header.PixelSpacing
    if (
        "ImagerPixelSpacing" not in header
        or "PatientOrientation" not in header
        or header.Modality in ("CT", "MR", "PT")
    ):
        header["Modality"] = DataElement("Modality", "CS", "OT")
    return header
