"""The delivery worker with known results in place of those that are built of each film; everything else is the real thing.

`python -m tests.integration.known_results_worker --config FILE`: each kind of object is built once, of the first film, and carries from
then on the identifiers and the identity that the real object of each film would have, without what is inside its sequences.
"""

import sys
import threading
from collections.abc import Callable
from unittest.mock import patch

from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset

from models.image import Image
from models.reading import Reading
from service.__main__ import main as carpus
from service.reporting import result_set, results
from service.reporting.results import ResultContext
from service.reporting.source import Source
from service.result_profile import ResultKind

Build = Callable[[Source, Reading, ResultContext, Callable[[], Image]], dict[ResultKind, Dataset]]


def known(build: Build) -> Build:
    """Return what takes the place of `build`, which is called for the first film alone."""
    made: dict[ResultKind, Dataset] = {}
    first = threading.Lock()

    def of_reading(
        film: Source, reading: Reading, context: ResultContext, image: Callable[[], Image]
    ) -> dict[ResultKind, Dataset]:
        with first:
            if not made:
                made.update(build(film, reading, context, image))
        return {
            kind: _of_film(made[kind], results.reference(film, kind, reading, context), film) for kind in context.kinds
        }

    return of_reading


def _of_film(like: Dataset, where: results.Reference, film: Source) -> Dataset:
    ds = Dataset({tag: like.get_item(tag) for tag in like.keys() if like.get_item(tag).VR != "SQ"})  # noqa: SIM118 - undecoded
    for tag in film.identity.keys():  # noqa: SIM118 - the same
        ds[tag] = film.identity.get_item(tag)
    own = {"SOPInstanceUID": where.SOPInstanceUID, "SeriesInstanceUID": where.SeriesInstanceUID}
    for keyword, value in {**own, "StudyInstanceUID": film.header.StudyInstanceUID}.items():
        ds[keyword] = DataElement(
            keyword, "UI", value
        )  # to set the attribute would change the element that all of them share
    ds.file_meta = FileMetaDataset(dict(like.file_meta.items()))
    ds.file_meta["MediaStorageSOPInstanceUID"] = DataElement("MediaStorageSOPInstanceUID", "UI", where.SOPInstanceUID)
    ds.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=like.original_character_set
    )
    return ds


def main() -> None:
    sys.argv[1:1] = ["worker", "delivery"]
    with patch("service.pipeline.result_set.of_reading", known(result_set.of_reading)):
        carpus()


if __name__ == "__main__":
    main()
