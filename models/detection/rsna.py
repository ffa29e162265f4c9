"""Bring the annotated RSNA films into training form: one film each, its sets merged, split by patient.

Terms of the films: academic, educational and other non-commercial use; weights trained on them carry these terms.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.datasets import rsna
from models.datasets.documents import number, rows
from models.datasets.faults import BadData
from models.detection.conventions import CHANNELS, Annotated, annotated
from models.detection.data import Film
from models.regions import REGIONS

PARTS: Final = ("train", "validation")
# Labels that lie beside the hand or name other bones: looked at one by one where the labels and what a network sees part by
# more than 6 % of the hand's length. None is in the validation split; nothing is left out of a measurement by them.
MISPLACED: Final = {
    # 2137: the hand's side is told wrong by radius and ulna; 1833, 14839: the thumb's box carries another finger's label;
    # 1972, 2083, 6936: drawn on another turn or crop of the film; the first six lie beside the hand.
    "epiphyses21": {1692, 1714, 1764, 1868, 2249, 6917, 1833, 1972, 2083, 2137, 6936, 14839},
    "handpose": {1590, 1814},  # thumb and little finger are exchanged
}


V = TypeVar("V")


class ById(dict[int, V]):
    """What a file says of the films, by id; a film that it does not name is refused, not a key that is not there."""

    def __init__(self, values: Mapping[int, V], path: Path, reason: str) -> None:
        super().__init__(values)
        self.path, self.reason = path, reason

    def __missing__(self, identifier: int) -> V:
        raise BadData(self.path, None, identifier, self.reason)


def read_thumbnails(data: Path) -> ById[NDArray[np.uint8]]:
    """Return the thumbnails of a data folder: id -> (100, 100) uint8."""
    tiles, films = rsna.thumbnails(data)
    found = {int(film.id): tile for film, tile in zip(films, tiles, strict=True)}
    return ById(found, data / "thumbnails" / "index.csv", "has annotations and no thumbnail")


def by_film(data: Path) -> dict[int, dict[str, Annotated]]:
    """Read every usable annotation of a data folder: film -> set -> record."""
    records = []
    for identifier, stated in rsna.annotations(data).items():
        if int(identifier) in rsna.HELD_OUT:
            raise BadData(data / "annotations.csv", None, identifier, "is held out and must not be read")
        records += annotated(int(identifier), stated)
    found: dict[int, dict[str, Annotated]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: (record.origin, record.film)):
        if record.film not in MISPLACED.get(record.origin, ()):
            found[record.film][record.origin] = record
    return dict(found)


def merge(records: Mapping[str, Annotated], pixels: NDArray[np.uint8]) -> Film:
    """Join what several sets state about one film; a region that follows from two sets is that of `handpose`.

    Sizes are left out: the sets draw their boxes around different things, and phantoms state the product's own exactly.
    """
    first = next(iter(records.values()))
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    sizes = np.full((len(REGIONS), 2), np.nan, np.float32)
    for name in ("handpose", "epiphyses21", "ossification16", "joints13"):
        if name in records:
            gap = np.isnan(points[:, 0])
            points[gap] = records[name].points[gap]
    return Film(pixels, first.aspect, points, sizes, name=str(first.film))


def of_part(data: Path, split: Path, part: str) -> dict[int, dict[str, Annotated]]:
    """Read every usable annotation of the films of one part, as `by_film`; a part without any is refused."""
    division = read_split(split)
    found = {film: records for film, records in by_film(data).items() if division[film] == part}
    if not found:
        raise BadData(split, None, part, f"no film with annotations in {data} stands in this part")
    return found


def read_split(path: Path) -> ById[str]:
    """Read a split file: id -> "train" or "validation"."""
    found: dict[int, str] = {}
    for line, row in rows(path, ("id", "split")):
        if row["split"] not in PARTS:
            raise BadData(path, line, row["split"], f"a film is in {' or '.join(PARTS)}")
        found[int(number(path, line, row["id"], "id", 0))] = row["split"]
    return ById(found, path, "has annotations and stands in no part")
