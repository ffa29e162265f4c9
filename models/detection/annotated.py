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
from models.reading import Box
from models.regions import REGIONS

FEWEST: Final = 3  # boxes on a film


@dataclass(frozen=True, slots=True)
class Annotated:
    """The films of each part, test among them, and the digest of the split file."""

    films: dict[str, list[Film]]
    split_sha256: str


def read(place: Path) -> Annotated:
    """Read the films of a folder of labelImg files, or of a COCO file.

    Raises
    ------
    BadData
        When an annotation or the split is faulty, a film has too few boxes or stands in no part, or none may teach: with file,
        line and value.
    """
    folder = place if place.is_dir() else place.parent
    path = folder / splits.FILE
    division = splits.load(path)
    boxed: list[tuple[Path, int, int, tuple[tuple[str, Box], ...], float]]
    if place.is_dir():
        found = labelimg.read_folder(place)
        boxed = [(each.image, each.rows, each.columns, each.boxes, 0.5) for each in found]
    else:
        boxed = [(each.image, each.rows, each.columns, each.boxes, 0.0) for each in coco.read(place)]
    films: dict[str, list[Film]] = {part: [] for part in splits.PARTS}
    for image, rows, columns, boxes, middle in boxed:
        if image.stem not in division:
            raise BadData(
                path, None, image.stem, "stands in no part; every annotated film is train, validation or test"
            )
        if len(boxes) < FEWEST:
            raise BadData(image, None, len(boxes), f"boxes; how the hand lies is seen from {FEWEST} regions or more")
        films[division[image.stem]].append(_film(image, rows, columns, dict(boxes), middle))
    if not films["train"]:
        raise BadData(path, None, "train", f"no film with boxes in {folder} stands in this part")
    return Annotated(films, splits.digest(path))


def _film(image: Path, rows: int, columns: int, boxes: dict[str, Box], middle: float) -> Film:
    """Return one film; `middle` is where the middle of pixel 0 lies from its edge, in the boxes' coordinates."""
    loaded = load_film(image)
    if (loaded.rows, loaded.columns) != (rows, columns):
        raise BadData(
            image, None, f"{loaded.columns} x {loaded.rows}", f"the boxes were drawn on {columns} x {rows} pixels"
        )
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    sizes = np.full((len(REGIONS), 2), np.nan, np.float32)
    for name, (x1, y1, x2, y2) in boxes.items():
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
