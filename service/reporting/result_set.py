"""Build all objects of one result: the table of kinds and their builders, for a delivery and for a preview alike."""

import datetime as dt
from collections.abc import Callable, Mapping
from functools import cache
from typing import get_args

from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from models.image import Image
from models.pixels import UnreadablePixels
from models.reading import Bundle, Reading, Reason, Verdict
from service.reporting import (
    encapsulated_pdf,
    encoding,
    key_objects,
    overview,
    presentation,
    report_page,
    secondary_capture,
    seg,
    source,
    sr,
    standard_tables,
)
from service.reporting.codes import Language
from service.reporting.results import ResultContext
from service.reporting.source import Source
from service.result_profile import ResultKind


def warm_up(device_uid: str) -> None:
    """Build a report and a picture that nobody will see: the first film must not wait for tables and fonts to load."""
    header = Dataset()
    header.SOPClassUID = ComputedRadiographyImageStorage
    header.SOPInstanceUID = header.StudyInstanceUID = header.SeriesInstanceUID = device_uid
    for language in get_args(Language):
        context = ResultContext(device_uid, dt.datetime.now(dt.UTC), language)
        built = of_rejection(source.normalise(header), Verdict(False, (Reason("not-a-hand", ""),)), context, _no_film)
        for ds in built.values():
            encoding.encoded(ds)
    report_page.fonts()


def _no_film() -> Image:
    raise UnreadablePixels("no-pixel-data", "there is no film")


def of_reading(
    film: Source, reading: Reading, context: ResultContext, image: Callable[[], Image]
) -> dict[ResultKind, Dataset]:
    """Return the results of a film that was read, by kind, in the order of `context.kinds`; no outline, no SEG.

    Parameters
    ----------
    image
        Loads the film; called only where a kind shows it.
    """
    standard_tables.provide(film.header.SOPClassUID)
    drawn = cache(lambda: overview.film(image(), reading))  # shown by the picture and by the page
    builders: Mapping[ResultKind, Callable[[], Dataset | None]] = {
        "SR": lambda: sr.build(film, reading, context),
        "SC": lambda: secondary_capture.build(film, reading, context, drawn()),
        "GSPS": lambda: presentation.build(film, reading, context),
        "SEG": lambda: seg.build(film, reading, context),
        "PDF": lambda: encapsulated_pdf.build(film, reading, context, drawn()),
        "KOS": lambda: key_objects.build(film, reading, context),
    }
    return {kind: ds for kind in context.kinds if (ds := builders[kind]()) is not None}


def of_rejection(
    film: Source,
    verdict: Verdict,
    context: ResultContext,
    image: Callable[[], Image],
    *,
    bundle: Bundle | None = None,
) -> dict[ResultKind, Dataset]:
    """Return what says why a film was not read: the short report and the picture, as far as `context.kinds` has them.

    Parameters
    ----------
    image
        Loads the film; a film that cannot be loaded leaves the picture with the words alone.
    bundle
        The weights that judged the film; None when routing turned it away before any model saw it.
    """

    def picture() -> Dataset:
        try:
            shown = image()
        except UnreadablePixels:
            shown = None
        return secondary_capture.build_rejection(film, verdict, context, image=shown, bundle=bundle)

    standard_tables.provide(film.header.SOPClassUID)
    builders: Mapping[ResultKind, Callable[[], Dataset]] = {
        "SR": lambda: sr.build_rejection(film, verdict, context, bundle=bundle),
        "SC": picture,
    }
    return {kind: builders[kind]() for kind in context.kinds if kind in builders}
