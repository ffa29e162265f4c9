"""Show what a PACS with a profile would get of a film, in forms that a browser opens; it belongs to no installation."""

import datetime as dt
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image as Picture
from pydicom import dcmread
from pydicom.dataset import Dataset

from models.image import Image
from models.reading import Reading
from service import uids
from service.conformance import SR_CLASSES, ResultKind
from service.reporting import result_set, sr_html
from service.reporting.codes import Language
from service.reporting.results import ResultContext
from service.reporting.source import REQUIRED, Source, normalise
from service.result_profile import ResultProfile

DEVICE_UID: Final = "2.25.0"


def nameless(path: Path) -> Source:
    """Return the header of a copy that inference saw; it has no study, so the preview gets one of its own."""
    header = dcmread(path, stop_before_pixels=True)
    for keyword in REQUIRED:
        if keyword not in header:
            setattr(header, keyword, uids.derive("preview", keyword))
    return normalise(header)


def build(
    film: Source, reading: Reading, image: Image, profile: ResultProfile, language: Language | None = None
) -> dict[ResultKind, Dataset]:
    """Return the objects of a film that was read or refused, by kind; in the language of the profile where none is given."""
    context = ResultContext(
        DEVICE_UID,
        dt.datetime.now(dt.UTC),
        language or profile.language,
        profile="preview",
        kinds=profile.objects,
        report_class=SR_CLASSES[profile.report_classes[0]],
        series=profile.labels(),
        picture_modality=profile.picture_modality,
    )
    if reading.verdict.accepted:
        return result_set.of_reading(film, reading, context, lambda: image)
    return result_set.of_rejection(film, reading.verdict, context, lambda: image, bundle=reading.bundle)


def _page(report: Dataset) -> bytes:
    return sr_html.render(report).encode()


def _picture(capture: Dataset) -> bytes:
    stream = BytesIO()
    Picture.fromarray(capture.pixel_array).save(stream, "PNG")
    return stream.getvalue()


def _document(ds: Dataset) -> bytes:
    return bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])


# Of the kinds that a browser can show: name of the file, its media type, what it holds in words, and how it is made.
FORMS: Final[Mapping[ResultKind, tuple[str, str, str, Callable[[Dataset], bytes]]]] = {
    "SR": ("SR.html", "text/html; charset=utf-8", "the report as a page", _page),
    "SC": ("SC.png", "image/png", "the Secondary Capture as a picture", _picture),
    "PDF": ("PDF.pdf", "application/pdf", "the page of the Encapsulated PDF", _document),
}
