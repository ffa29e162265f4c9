"""Read boxes and outlines as COCO keeps them: one JSON file for all films."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets.documents import is_film, number, read_json, same_size
from models.datasets.faults import BadData
from models.reading import Box
from models.regions import REGIONS


@dataclass(frozen=True, slots=True)
class Annotated:
    """What the file says of one film; boxes and points are x, y in pixels, pixel (0, 0) spans 0 to 1."""

    image: Path
    rows: int
    columns: int
    boxes: tuple[tuple[str, Box], ...]
    outlines: tuple[tuple[str, NDArray[np.float64]], ...]  # label, (points, 2)


def read(
    path: Path, *, labels: Collection[str] = REGIONS, images: Path | None = None, tolerance: float = 2.0
) -> list[Annotated]:
    """Read one file; every annotation has a box, some an outline of one or more polygons.

    Parameters
    ----------
    labels
        The categories that may occur among the annotations.
    images
        Folder of the films; the annotation's own folder by default.
    tolerance
        Pixels by which a box or a point may lie off the film: tools let a border be drawn a little past it.

    Raises
    ------
    BadData
        Malformed JSON, a missing key, an unknown category or film, a box without area or off the film, an outline of fewer
        than three points, a run-length mask, a film that is missing or of another size: each with file, line and value.
    """
    text, document = read_json(path)
    reader = _Reader(path, text, tolerance)
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key) if isinstance(document, dict) else None, list):
            raise BadData(path, 1, key, "is missing, or is no list")
        for entry in document[key]:
            if not isinstance(entry, dict):
                raise BadData(path, reader.line(f'"{key}"', 0), entry, f"an entry of {key} is to be an object")
            for name in ("id", "image_id", "category_id"):
                if not isinstance(entry.get(name), int | str | None):
                    raise BadData(path, reader.line(f'"{name}"', 0), entry[name], f"{name} is to be a number or a text")
    names = reader.categories(document["categories"])
    films = reader.films(document["images"], images or path.parent)
    boxes: dict[object, list[tuple[str, Box]]] = {key: [] for key in films}
    outlines: dict[object, list[tuple[str, NDArray[np.float64]]]] = {key: [] for key in films}
    for index, entry in enumerate(document["annotations"]):
        line = reader.line(r'"image_id"\s*:', index)
        film = films.get(entry.get("image_id"))
        if film is None:
            raise BadData(path, line, entry.get("image_id"), "is the id of no film of this file")
        label = names.get(entry.get("category_id"))
        if label is None:
            raise BadData(path, line, entry.get("category_id"), "is the id of no category of this file")
        if label not in labels:
            raise BadData(path, line, label, f"is not one of the labels {', '.join(labels)}")
        if label in (name for name, _ in boxes[entry["image_id"]]):
            raise BadData(path, line, label, "has a box already; a film has one of each region")
        boxes[entry["image_id"]].append((label, reader.box(entry.get("bbox"), label, film, line)))
        for points in reader.outlines(entry.get("segmentation", []), label, film, line):
            outlines[entry["image_id"]].append((label, points))
    return [
        Annotated(image, rows, columns, tuple(boxes[key]), tuple(outlines[key]))
        for key, (image, rows, columns) in films.items()
    ]


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path
    text: str
    tolerance: float

    def line(self, pattern: str, index: int) -> int:
        """Return the line of the match number `index`, counted from 1."""
        for found, match in enumerate(re.finditer(pattern, self.text)):
            if found == index:
                return self.text.count("\n", 0, match.start()) + 1
        return 1

    def categories(self, entries: list[dict[str, Any]]) -> dict[object, str]:
        names: dict[object, str] = {}
        for entry in entries:
            if "id" not in entry or "name" not in entry:
                raise BadData(self.path, self.line('"categories"', 0), entry, "a category has an id and a name")
            if entry["id"] in names:
                raise BadData(self.path, self.line('"categories"', 0), entry["id"], "is the id of two categories")
            names[entry["id"]] = str(entry["name"])
        return names

    def films(self, entries: list[dict[str, Any]], folder: Path) -> dict[object, tuple[Path, int, int]]:
        films: dict[object, tuple[Path, int, int]] = {}
        for index, entry in enumerate(entries):
            line = self.line(r'"file_name"\s*:', index)
            lacking = [key for key in ("id", "file_name", "height", "width") if key not in entry]
            if lacking:
                raise BadData(self.path, line, entry.get("id"), f"this film lacks {', '.join(lacking)}")
            named = Path(str(entry["file_name"]).replace("\\", "/"))
            places = (
                [folder / named.name]
                if named.is_absolute() or ".." in named.parts
                else [folder / named, folder / named.name]
            )
            image = next((film for film in places if is_film(film)), None)
            if image is None:
                raise BadData(self.path, line, entry["file_name"], f"the film is not in {folder}")
            if entry["id"] in films:
                raise BadData(self.path, line, entry["id"], "is the id of two films")
            if any(image == other for other, _, _ in films.values()):
                raise BadData(self.path, line, entry["file_name"], "is there twice, with two ids")
            rows, columns = (round(number(self.path, line, entry[side], side, 1)) for side in ("height", "width"))
            same_size(self.path, line, image, rows, columns)
            films[entry["id"]] = (image, rows, columns)
        return films

    def box(self, value: object, label: str, film: tuple[Path, int, int], line: int) -> Box:
        try:
            x, y, width, height = (float(number) for number in (value if isinstance(value, list) else ()))
        except (TypeError, ValueError, OverflowError):
            raise BadData(self.path, line, value, f"the box of {label} is x, y, width, height") from None
        self._on_film(np.array([[x, y], [x + width, y + height]]), f"the box of {label}", film, line)
        if width <= 0 or height <= 0:
            raise BadData(self.path, line, value, f"the box of {label} has no area")
        return (x, y, x + width, y + height)

    def outlines(self, value: object, label: str, film: tuple[Path, int, int], line: int) -> list[NDArray[np.float64]]:
        if not isinstance(value, list):
            raise BadData(self.path, line, type(value).__name__, f"the outline of {label} is to be polygons")
        found = []
        for polygon in value:
            try:
                points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
            except (TypeError, ValueError, OverflowError):
                points = np.empty((0, 2))
            if len(points) < 3:
                raise BadData(self.path, line, len(points), f"the outline of {label} needs at least three points x, y")
            self._on_film(points, f"the outline of {label}", film, line)
            found.append(points)
        return found

    def _on_film(self, points: NDArray[np.float64], what: str, film: tuple[Path, int, int], line: int) -> None:
        _, rows, columns = film
        low, high = points.min(axis=0), points.max(axis=0)
        if not np.isfinite(points).all():
            raise BadData(self.path, line, points.tolist(), f"{what} has a number that is none")
        if (low < -self.tolerance).any() or high[0] > columns + self.tolerance or high[1] > rows + self.tolerance:
            value = tuple(float(v) for v in (*low, *high))
            raise BadData(self.path, line, value, f"{what} does not lie in a film of {columns} x {rows}")
