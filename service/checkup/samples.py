"""Make the results of a drawn film for a test patient: the very objects a PACS would get, the same bytes at each call."""

import datetime as dt
from io import BytesIO
from typing import Final

from pydicom import Dataset, dcmread

from models import phantom
from models.image import Image
from models.reading import Reading
from service import bundle
from service.conformance import SR_CLASSES
from service.reporting import encoding, result_set, source
from service.reporting.results import ResultContext
from service.result_profile import ResultProfile
from service.settings import Settings
from service.wrap import Patient, uid, wrap

PATIENT: Final = Patient("CARPUS^SETUP CHECK", "CARPUS-CHECK", "F", dt.date(2016, 1, 1))
AT: Final = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)  # fixed: a repeat sends the same instances
STUDY: Final = "setup check"
STUDY_UID: Final = str(uid(PATIENT.PatientID, STUDY, "study"))
AGE_YEARS: Final = 10.0
SEED: Final = 7


def film() -> tuple[Image, Dataset]:
    """Return the drawn film, as pixels and as the CR a modality would send."""
    drawn = phantom.draw(SEED, age_years=AGE_YEARS, sex="F")
    stream = BytesIO()
    wrap(drawn.image, PATIENT, study=STUDY, at=AT).save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return drawn.image, dcmread(stream)


def read(settings: Settings, image: Image) -> Reading:
    """Read the drawn film with the bundle of the settings."""
    return bundle.load(settings).read(image, "F", AGE_YEARS)


def objects(profile: ResultProfile, device_uid: str, reading: Reading, image: Image, header: Dataset) -> list[Dataset]:
    """Return what a PACS with this profile gets of the drawn film, with file meta information."""
    context = ResultContext(
        device_uid,
        AT,
        profile.language,
        profile=f"setup check {profile.fingerprint}",
        kinds=profile.objects,
        report_class=SR_CLASSES[profile.report_classes[0]],
        series=profile.labels(),
        picture_modality=profile.picture_modality,
    )
    normalised = source.normalise(header)
    if reading.verdict.accepted:
        built = result_set.of_reading(normalised, reading, context, lambda: image)
    else:
        built = result_set.of_rejection(normalised, reading.verdict, context, lambda: image, bundle=reading.bundle)
    return [dcmread(BytesIO(encoding.encoded(ds))) for ds in built.values()]
