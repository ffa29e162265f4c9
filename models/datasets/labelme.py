"""Read outlines as labelme writes them: JSON, one file a film (P1 labels radius and ulna so)."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from models.datasets.documents import files_of, is_film, number, read_json, same_size
from models.datasets.faults import BadData
from models.regions import SEGMENTED


@dataclass(frozen=True, slots=True)
class Outlines:
    """The outlines of one film; a bone may have several pieces. Points are x, y; pixel (0, 0) spans 0 to 1."""

    image: Path
    rows: int
    columns: int
    outlines: tuple[tuple[str, NDArray[np.float64]], ...]  # label, (points, 2)

    def mask(self, label: str) -> NDArray[np.bool_]:
        """Return the (rows, columns) mask of a label: the union of its outlines."""
        mask = np.zeros((self.rows, self.columns), dtype=np.bool_)
        for name, points in self.outlines:
            if name == label:
                mask |= polygon2mask(mask.shape, points[:, ::-1] - 0.5)  # type: ignore[no-untyped-call]
        return mask


def read(
    path: Path, *, labels: Collection[str] = SEGMENTED, images: Path | None = None, tolerance: float = 2.0
) -> Outlines:
    """Read one file.

    Parameters
    ----------
    labels
        The labels that may occur.
    images
        Folder of the films; the annotation's own folder by default.
    tolerance
        Pixels by which a point may lie off the film: tools let a border be drawn a little past it.

    Raises
    ------
    BadData
        Malformed JSON, an unknown label, an outline of fewer than three points or off the film, a film that is missing or of
        another size: each with file, line and value.
    """
    text, document = read_json(path)
    for key in ("shapes", "imagePath", "imageHeight", "imageWidth"):
        if not isinstance(document, dict) or key not in document:
            raise BadData(path, 1, key, "is missing")
    if not isinstance(document["shapes"], list):
        raise BadData(path, _line(text, '"shapes"', 0), document["shapes"], "shapes is to be a list")
    folder, named = images or path.parent, Path(str(document["imagePath"]).replace("\\", "/"))
    image = next((film for film in (folder / named, folder / named.name) if is_film(film)), None)
    if image is None:
        raise BadData(path, _line(text, r'"imagePath"', 0), document["imagePath"], f"the film is not in {folder}")
    rows, columns = (
        round(number(path, _line(text, f'"{key}"', 0), document[key], key, 1)) for key in ("imageHeight", "imageWidth")
    )
    same_size(path, _line(text, '"imageWidth"', 0), image, rows, columns)
    found = []
    for index, shape in enumerate(document["shapes"]):
        line = _line(text, r'"label"\s*:', index)
        if not isinstance(shape, dict):
            raise BadData(path, _line(text, '"shapes"', 0), shape, "a shape has a label and points")
        label = shape.get("label")
        if label not in labels:
            raise BadData(path, line, label, f"is not one of the labels {', '.join(labels)}")
        if shape.get("shape_type", "polygon") != "polygon":
            raise BadData(path, line, shape["shape_type"], f"the outline of {label} is to be a polygon")
        points = _points(path, line, shape.get("points"), str(label))
        low, high = points.min(axis=0), points.max(axis=0)
        if (low < -tolerance).any() or high[0] > columns + tolerance or high[1] > rows + tolerance:
            value = tuple(float(v) for v in (*low, *high))
            raise BadData(path, line, value, f"the outline of {label} does not lie in a film of {columns} x {rows}")
        found.append((str(label), points))
    return Outlines(image, rows, columns, tuple(found))


def _points(path: Path, line: int, stated: object, label: str) -> NDArray[np.float64]:
    """Return the points of an outline, (n, 2)."""
    if not isinstance(stated, list) or len(stated) < 3:
        count = len(stated) if isinstance(stated, list) else 0
        raise BadData(path, line, count, f"the outline of {label} needs at least three points x, y")
    points = np.full((len(stated), 2), np.nan)
    for index, point in enumerate(stated):
        which = f"point {index + 1} of the outline of {label}"
        if not isinstance(point, list) or len(point) != 2:
            raise BadData(path, line, point, f"{which} is to be x, y")
        points[index] = [number(path, line, value, f"a coordinate of {which}") for value in point]
    return points


def _line(text: str, pattern: str, index: int) -> int:
    """Return the line of the match number `index`, counted from 1."""
    for found, match in enumerate(re.finditer(pattern, text)):
        if found == index:
            return text.count("\n", 0, match.start()) + 1
    return 1


def read_folder(folder: Path, *, labels: Collection[str] = SEGMENTED, images: Path | None = None) -> list[Outlines]:
    """Read every JSON file of a folder, in the order of their names."""
    return [read(path, labels=labels, images=images) for path in files_of(folder, ".json")]
