"""Read boxes as labelImg writes them: Pascal VOC XML, one file a film."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from models.datasets.documents import files_of, is_film, number, same_size
from models.datasets.faults import BadData
from models.reading import Box
from models.regions import REGIONS

MAXIMUM_DEPTH = 100  # labelImg writes three levels; the time for a file grows with the square of its depth
_COORDINATES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of one film, pixel coordinates counted from 0."""

    image: Path
    rows: int
    columns: int
    boxes: tuple[tuple[str, Box], ...]


class _Reader:
    """Collects text by its path of tags, with the line each element began on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tags: list[str] = []
        self.values: dict[str, tuple[str, int]] = {}  # by path of tags: text, line
        self.objects: list[dict[str, tuple[str, int]]] = []  # each by tag: text, line; "object" is its own line
        self._text = ""
        self._line = 0
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data
        self.parser.EntityDeclHandler = self._entity

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self.tags.append(tag)
        if len(self.tags) > MAXIMUM_DEPTH:
            raise BadData(self.path, self.parser.CurrentLineNumber, tag, "is nested too deeply for an annotation")
        self._text, self._line = "", self.parser.CurrentLineNumber
        if self.tags[1:] == ["object"]:
            self.objects.append({"object": ("", self._line)})

    def _data(self, text: str) -> None:
        self._text += text

    def _end(self, tag: str) -> None:
        found = (self._text.strip(), self._line)
        if self.tags[1:-1] in (
            ["object"],
            ["object", "bndbox"],
        ):  # VOC knows parts of objects too, with names and boxes
            self.objects[-1][tag] = found
        elif self.tags[1:2] != ["object"]:
            self.values["/".join(self.tags[1:])] = found
        self.tags.pop()
        self._text = ""

    def _entity(self, name: str, *rest: object) -> None:
        # No annotation tool declares entities; a file that does wants to be expanded to gigabytes.
        raise BadData(self.path, self.parser.CurrentLineNumber, name, "an annotation declares no entities")


def read(path: Path, *, labels: Collection[str] = REGIONS, images: Path | None = None) -> Boxes:
    """Read one file.

    Parameters
    ----------
    labels
        The labels that may occur.
    images
        Folder of the films; the annotation's own folder by default.

    Raises
    ------
    BadData
        Malformed XML, an unknown label, one that is missing or given twice, a coordinate that is not a number, a box outside the film or
        without area, a film that is missing or of another size: each with file, line and value.
    """
    reader = _Reader(path)
    try:
        reader.parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise BadData(path, None, path.name, f"cannot be read: {error.strerror}") from error
    except expat.ExpatError as error:
        raise BadData(path, error.lineno, path.name, f"is not XML: {expat.ErrorString(error.code)}") from error
    except (LookupError, ValueError) as error:
        if isinstance(error, BadData):
            raise
        line = reader.parser.CurrentLineNumber
        raise BadData(path, line, path.name, f"is not in UTF-8, the encoding it should have: {error}") from error
    values = reader.values
    name, line = values.get("filename", ("", 1))
    image = (images or path.parent) / Path(name).name
    if not name or not is_film(image):
        raise BadData(path, line, name, f"the film is not in {image.parent}")
    columns, rows = (_whole(path, values, f"size/{side}", 1) for side in ("width", "height"))
    same_size(path, values["size/width"][1], image, rows, columns)
    found: list[tuple[str, Box]] = []
    for entry in reader.objects:
        label, line = entry.get("name", entry["object"])
        if label not in labels:
            raise BadData(path, line, label, f"is not one of the labels {', '.join(labels)}")
        if label in (name for name, _ in found):
            raise BadData(path, line, label, "has a box already; a film has one of each region")
        x1, y1, x2, y2 = (_whole(path, entry, side, entry["object"][1]) for side in _COORDINATES)
        if not (1 <= x1 < x2 <= columns and 1 <= y1 < y2 <= rows):
            line = entry["xmin"][1]
            raise BadData(
                path, line, (x1, y1, x2, y2), f"the box of {label} does not lie in a film of {columns} x {rows}"
            )
        found.append((label, (x1 - 1.0, y1 - 1.0, x2 - 1.0, y2 - 1.0)))
    return Boxes(image, rows, columns, tuple(found))


def _whole(path: Path, values: dict[str, tuple[str, int]], key: str, line: int) -> int:
    text, line = values.get(key, ("", line))
    return round(number(path, line, text, key))


def read_folder(folder: Path, *, labels: Collection[str] = REGIONS, images: Path | None = None) -> list[Boxes]:
    """Read every XML file of a folder, in the order of their names."""
    return [read(path, labels=labels, images=images) for path in files_of(folder, ".xml")]
