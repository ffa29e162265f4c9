"""Write a Key Object Selection (TID 2010): the film and our picture of it, so that a viewer shows both first."""

from collections.abc import Iterator

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom_codes

from models.reading import Reading
from service.reporting import codes, results, wording
from service.reporting.measurement_report import coded
from service.reporting.results import ResultContext
from service.reporting.source import Source


def build(source: Source, reading: Reading, context: ResultContext) -> Dataset:
    """Return the key object note of a film that was read: the film, and the picture where the destination gets one."""
    language = results.language_for(source, context)
    evidence = list(_evidence(source, reading, context))
    sentence = next((wording.method_sentence(method, language) for method in wording.in_order(reading)), "")
    selection = KeyObjectSelection(
        document_title=coded(codes.OF_INTEREST, "en"),
        referenced_objects=evidence,
        observer_device_context=ObserverContext(
            observer_type=dicom_codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=context.device_uid,
                name=results.MODEL_NAME,
                manufacturer_name=results.MANUFACTURER,
                model_name=results.MODEL_NAME,
                serial_number=context.device_serial_number,
            ),
        ),
        description=f"{sentence} {results.DISCLAIMER[language]}{'。' if language == 'zh' else '.'}".strip(),
    )
    where = results.reference(source, "KOS", reading, context)
    note = KeyObjectSelectionDocument(
        evidence=evidence,
        content=selection,
        series_instance_uid=where.SeriesInstanceUID,
        series_number=context.series["KOS"].number,
        sop_instance_uid=where.SOPInstanceUID,
        instance_number=1,
        manufacturer=results.MANUFACTURER,
        specific_character_set=None,
    )
    for item in note.ContentSequence:
        if item.ValueType == "IMAGE":
            del item.ConceptNameCodeSequence  # TID 2010 row 8: no purpose of reference; the library writes "Source"
    return results.finish(note, source, "KOS", context)


def _evidence(source: Source, reading: Reading, context: ResultContext) -> Iterator[Dataset]:
    yield source.header
    if "SC" in context.kinds:
        picture = results.reference(source, "SC", reading, context)
        header = Dataset()
        header.StudyInstanceUID = source.header.StudyInstanceUID
        header.SeriesInstanceUID = picture.SeriesInstanceUID
        header.SOPInstanceUID = picture.SOPInstanceUID
        header.SOPClassUID = picture.SOPClassUID
        header.Rows = header.Columns = 1  # tells the library that it is an image; not written
        yield header
