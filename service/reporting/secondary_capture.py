"""Write the overview picture as a Secondary Capture: the one result that every viewer shows."""

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from models.image import Image
from models.reading import Bundle, Reading, Verdict
from service.reporting import overview, results
from service.reporting.results import NO_BUNDLE, ResultContext
from service.reporting.source import Source


def build(source: Source, reading: Reading, context: ResultContext, drawn: NDArray[np.uint8]) -> Dataset:
    """Return the overview of a film that was read.

    Parameters
    ----------
    drawn
        The film with its regions, from `overview.film`.
    """
    language = results.language_for(source, context)
    where = results.reference(source, "SC", reading, context)
    return _wrap(
        overview.beside(drawn, reading, language, priors=context.priors, amendment=context.amendment),
        source,
        context,
        seen=reading.image.laterality,
        sop_instance_uid=where.SOPInstanceUID,
        series_instance_uid=where.SeriesInstanceUID,
    )


def build_rejection(
    source: Source,
    verdict: Verdict,
    context: ResultContext,
    *,
    image: Image | None = None,
    bundle: Bundle | None = None,
) -> Dataset:
    """Return the picture that says why a film was not read; without the film where it could not be decoded."""
    language = results.language_for(source, context)
    identity = (bundle.sha256 if bundle else NO_BUNDLE, "SC-rejection", context)
    return _wrap(
        overview.draw_rejection(image, verdict.reasons, language),
        source,
        context,
        seen=None,
        sop_instance_uid=results.result_uid(source, *identity, "instance"),
        series_instance_uid=results.result_uid(source, *identity, "series"),
    )


def _wrap(
    picture: NDArray[np.uint8],
    source: Source,
    context: ResultContext,
    *,
    seen: str | None,
    sop_instance_uid: str,
    series_instance_uid: str,
) -> Dataset:
    capture = SCImage(
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        # A film beside a panel has no orientation as a whole; the attribute stays, empty (PS3.3 C.7.6.1.1.1).
        patient_orientation=("L", "F"),
        study_instance_uid=source.header.StudyInstanceUID,
        series_instance_uid=series_instance_uid,
        series_number=context.series["SC"].number,
        sop_instance_uid=sop_instance_uid,
        instance_number=1,
        manufacturer=results.MANUFACTURER,
    )
    capture.PatientOrientation = []
    capture.ConversionType = "WSD"
    created_at = results.local_time(source, context)  # highdicom writes the present moment
    capture.DateOfSecondaryCapture = DA(created_at.date())
    capture.TimeOfSecondaryCapture = TM(created_at.time())
    capture.ImageType = ["DERIVED", "SECONDARY"]
    if context.picture_modality == "film":
        capture.Modality = source.header.Modality
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.header.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    capture.SourceImageSequence = [reference]
    results.state_laterality(capture, source, seen)
    return results.finish(capture, source, "SC", context)
