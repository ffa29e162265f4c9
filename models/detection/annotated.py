"""Read a hospital's own films with boxes of the 22 regions: labelImg files of a folder, or one COCO file.

Beside them lies `split.csv` (`id,part`: the film's name without its ending; `train`, `validation` or `test`), so that no patient
teaches and judges. Boxes are those of the product's regions: about the epiphysis, or about the place where it will appear.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models import transforms
from models.datasets import coco, labelimg, splits
from models.datasets.documents import load_film
from models.datasets.faults import BadData
from models.detection.conventions import CHANNELS
from models.detection.data import Film
from models.detection.predict import WORKING_SIDE
from models.image import Image
from models.reading import Box
from models.regions import REGIONS

FEWEST: Final = 3  # boxes on a film


@dataclass(frozen=True, slots=True)
class Annotated:
    """The films of each part, test among them, and the digest of the split file."""

    films: dict[str, list[Film]]
    split_sha256: str


@dataclass(frozen=True, slots=True)
class Boxed:
    """One film's boxes as they were drawn; `middle` is where the middle of pixel 0 lies from its edge, in their coordinates."""

    image: Path
    rows: int
    columns: int
    boxes: dict[str, Box]
    middle: float

    def load(self) -> Image:
        """Return the film's pixels; boxes that were drawn on a film of another size are refused."""
        loaded = load_film(self.image)
        if (loaded.rows, loaded.columns) != (self.rows, self.columns):
            size, drawn = f"{loaded.columns} x {loaded.rows}", f"{self.columns} x {self.rows} pixels"
            raise BadData(self.image, None, size, f"the boxes were drawn on {drawn}")
        return loaded


def boxed(place: Path) -> dict[str, list[Boxed]]:
    """Read the boxes of each part of a folder of labelImg files, or of a COCO file; no film is opened for its pixels.

    Raises
    ------
    BadData
        When an annotation or the split is faulty, a film has too few boxes or stands in no part: with file, line and value.
    """
    if not place.exists():
        raise BadData(place, None, place.name, "there is no such folder or file")
    folder = place if place.is_dir() else place.parent
    path = folder / splits.FILE
    division = splits.load(path)
    found: list[Boxed]
    if place.is_dir():
        read_boxes = labelimg.read_folder(place)
        found = [Boxed(each.image, each.rows, each.columns, dict(each.boxes), 0.5) for each in read_boxes]
    else:
        found = [Boxed(each.image, each.rows, each.columns, dict(each.boxes), 0.0) for each in coco.read(place)]
    parts: dict[str, list[Boxed]] = {part: [] for part in splits.PARTS}
    for film in found:
        name = film.image.stem
        if name not in division:
            raise BadData(path, None, name, "stands in no part; every annotated film is train, validation or test")
        if len(film.boxes) < FEWEST:
            reason = f"boxes; how the hand lies is seen from {FEWEST} regions or more"
            raise BadData(film.image, None, len(film.boxes), reason)
        parts[division[name]].append(film)
    return parts


def read(place: Path) -> Annotated:
    """Read the films and boxes of a folder of labelImg files, or of a COCO file.

    Raises
    ------
    BadData
        As `boxed`; also when a film cannot be decoded, has another size than its boxes say, or none may teach.
    """
    path = (place if place.is_dir() else place.parent) / splits.FILE
    films = {part: [_film(film) for film in found] for part, found in boxed(place).items()}
    if not films["train"]:
        raise BadData(path, None, "train", f"no film with boxes in {path.parent} stands in this part")
    return Annotated(films, splits.digest(path))


def _film(film: Boxed) -> Film:
    """Return one film as training keeps it: averaged down, its boxes as points and sizes in shares of it."""
    loaded, rows, columns, middle, image = film.load(), film.rows, film.columns, film.middle, film.image
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    sizes = np.full((len(REGIONS), 2), np.nan, np.float32)
    for name, (x1, y1, x2, y2) in film.boxes.items():
        index = REGIONS.index(name)
        points[index] = ((x1 + x2) / 2 + middle) / columns, ((y1 + y2) / 2 + middle) / rows
        sizes[index] = (x2 - x1) / columns, (y2 - y1) / rows
    small, block = transforms.shrink(loaded.pixels, WORKING_SIDE)
    kept = np.array([columns, rows]) / (
        np.array([small.shape[1], small.shape[0]]) * block
    )  # less than a block was cut off
    grey = np.round(255 * transforms.stretch(small)).clip(0, 255).astype(np.uint8)
    points[: len(REGIONS)] *= kept
    return Film(grey, small.shape[1] / small.shape[0], points, (sizes * kept).astype(np.float32), name=image.stem)
