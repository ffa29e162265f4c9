"""Bring the annotated RSNA films into training form: one film each, its sets merged, split by patient.

Terms of the films: academic, educational and other non-commercial use; weights trained on them carry these terms.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.datasets import rsna
from models.detection.conventions import CHANNELS, Annotated, annotated
from models.detection.data import Film
from models.regions import REGIONS

# Labels that lie beside the hand or name other bones: looked at one by one where the labels and what a network sees part by
# more than 6 % of the hand's length. None is in the validation split; nothing is left out of a measurement by them.
MISPLACED: Final = {
    # 2137: the hand's side is told wrong by radius and ulna; 1833, 14839: the thumb's box carries another finger's label;
    # 1972, 2083, 6936: drawn on another turn or crop of the film; the first six lie beside the hand.
    "epiphyses21": {1692, 1714, 1764, 1868, 2249, 6917, 1833, 1972, 2083, 2137, 6936, 14839},
    "handpose": {1590, 1814},  # thumb and little finger are exchanged
}


def read_thumbnails(data: Path) -> dict[int, NDArray[np.uint8]]:
    """Return the thumbnails of a data folder: id -> (100, 100) uint8."""
    tiles, films = rsna.thumbnails(data)
    return {int(film.id): tile for film, tile in zip(films, tiles, strict=True)}


def by_film(data: Path) -> dict[int, dict[str, Annotated]]:
    """Read every usable annotation of a data folder: film -> set -> record."""
    records = []
    for identifier, stated in rsna.annotations(data).items():
        if int(identifier) in rsna.HELD_OUT:
            raise ValueError(f"film {identifier} is held out and must not be read")
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


def read_split(path: Path) -> dict[int, str]:
    """Read a split file: id -> "train" or "validation"."""
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["id"]): row["split"] for row in csv.DictReader(file)}
