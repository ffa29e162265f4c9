"""The RSNA Pediatric Bone Age Challenge films (Halabi 2019), from a folder outside the tree.

Terms: academic, educational and other non-commercial use. `images.csv` lists whole films, `thumbnails/` holds sheets of
100 x 100 tiles, `annotations.csv` boxes and points in pixels of the original film. Ids 4360 to 4559 are the challenge's
test set: they are never trained on or tuned to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from models.datasets.documents import number, rows
from models.datasets.faults import BadData
from models.reading import Box
from models.regions import Sex

HELD_OUT: Final = range(4360, 4560)
TILE: Final = 100
_TILES_A_ROW: Final = 50
# Set -> kind -> labels. Sides of `hand_L` and `hand_R` are told by the points; `w2` and `w3` lie inside the carpus.
LABELS: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "epiphyses21": {
        "box": frozenset(
            ("Radius", "Ulna", "MCPFirst", "MCP", "ProximalPhalanx", "MiddlePhalanx", "DistalPhalanx"),
        )
    },
    "ossification16": {"box": frozenset(("DIP", "PIP", "MCP", "Radius", "Ulna", "Wrist"))},
    "handpose": {
        "box": frozenset(("hand_L", "hand_R")),
        "point": frozenset(
            (
                "wrist",
                *(
                    f"{finger}{place}"
                    for finger in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
                    for place in range(1, 5)
                ),
            )
        ),
    },
    "joints13": {
        "point": frozenset(
            (
                "0_mcp_ip",
                "1_pip_2",
                "2_pip_3",
                "3_pip_4",
                "4_pip_5",
                "5_mcp_1",
                "6_mcp_2",
                "7_mcp_3",
                "8_mcp_4",
                "9_mcp_5",
                "w1",
                "w2",
                "w3",
            )
        )
    },
}
OFF_THE_FILM: Final = (
    0.05  # share of the film's side by which a box or point may lie beyond it: readers draw over the edge
)


@dataclass(frozen=True, slots=True)
class Film:
    """One film of the set; `id` is the patient's."""

    id: str
    path: Path
    rows: int
    columns: int
    bone_age_years: float
    sex: Sex

    @property
    def held_out(self) -> bool:
        """Whether it belongs to the challenge's test set."""
        return int(self.id) in HELD_OUT


@dataclass(frozen=True, slots=True)
class Annotation:
    """A box (x1 < x2) or a point (x1 = x2) in pixels of the original film."""

    id: str
    source: str  # epiphyses21, ossification16, handpose, joints13: their conventions differ
    kind: str
    label: str
    box: Box
    columns: int
    rows: int


def _id(path: Path, line: int, row: Mapping[str, str]) -> str:
    if not row["id"].isascii() or not row["id"].isdigit():
        raise BadData(path, line, row["id"], "an id is a whole number")
    return row["id"]


def _sex(path: Path, line: int, value: str) -> Sex:
    if value == "F":
        return "F"
    if value == "M":
        return "M"
    raise BadData(path, line, value, "sex is F or M")


def films(folder: Path, *, subset: str | None = None) -> list[Film]:
    """Return the films of `images.csv`; `subset` is fullres, validation or medium.

    Raises
    ------
    BadData
        A missing file or column, an age or size outside its range, an unknown sex, a film that is listed and not there.
    """
    table = folder / "images.csv"
    found = []
    for line, row in rows(table, ("id", "file", "rows", "columns", "bone_age_months", "sex")):
        if subset is not None and not row["file"].startswith(f"{subset}/"):
            continue
        path = folder / row["file"]
        if not path.is_file():
            raise BadData(table, line, row["file"], "the film is not in the folder")
        size = [int(number(table, line, row[name], name, 32, 10_000)) for name in ("rows", "columns")]
        years = number(table, line, row["bone_age_months"], "bone_age_months", 0, 240) / 12
        found.append(Film(_id(table, line, row), path, size[0], size[1], years, _sex(table, line, row["sex"])))
    return found


def thumbnails(folder: Path) -> tuple[NDArray[np.uint8], list[Film]]:
    """Return all thumbnails, (n, 100, 100), with their films in the same order (sizes are those of the originals)."""
    place = folder / "thumbnails"
    index = place / "index.csv"
    listed = [
        Film(
            _id(index, line, row),
            place,
            int(number(index, line, row["original_rows"], "original_rows", 32, 10_000)),
            int(number(index, line, row["original_columns"], "original_columns", 32, 10_000)),
            number(index, line, row["bone_age_months"], "bone_age_months", 0, 240) / 12,
            _sex(index, line, row["sex"]),
        )
        for line, row in rows(index, ("id", "bone_age_months", "sex", "original_rows", "original_columns"))
    ]
    sheets = sorted(place.glob("sheet*.webp"))
    tiles: list[NDArray[np.uint8]] = []
    for sheet in sheets:
        try:
            with Picture.open(sheet) as picture:
                pixels = np.asarray(picture.convert("L"))
        except (OSError, ValueError) as error:
            raise BadData(sheet, None, sheet.name, f"cannot be decoded: {error}") from error
        if pixels.shape[0] % TILE or pixels.shape[1] != TILE * _TILES_A_ROW:
            raise BadData(sheet, None, pixels.shape, f"a sheet has {_TILES_A_ROW} tiles of {TILE} pixels a row")
        tiles.append(pixels.reshape(-1, TILE, _TILES_A_ROW, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE))
    count = sum(len(block) for block in tiles)
    if not listed:
        raise BadData(index, None, "no rows", "the table names no film")
    if count < len(listed):
        raise BadData(index, None, len(listed), f"films are listed, {count} tiles are in {len(sheets)} sheets")
    return np.concatenate(tiles)[: len(listed)], listed


def _known(table: Path, line: int, source: str, kind: str, label: str) -> None:
    """Refuse what no set of this data says."""
    if source not in LABELS:
        raise BadData(table, line, source, f"sets are {', '.join(sorted(LABELS))}")
    if kind not in LABELS[source]:
        raise BadData(table, line, kind, f"{source} states a {' or a '.join(sorted(LABELS[source]))}")
    if label not in LABELS[source][kind]:
        raise BadData(
            table, line, label, f"labels of a {kind} in {source} are {', '.join(sorted(LABELS[source][kind]))}"
        )


def _coordinate(table: Path, line: int, value: str, name: str, side: float) -> float:
    return number(table, line, value, name, -OFF_THE_FILM * side, (1 + OFF_THE_FILM) * side)


def annotations(folder: Path, *, source: str | None = None) -> dict[str, list[Annotation]]:
    """Return the boxes and points by film id.

    Raises
    ------
    BadData
        An unknown set, kind or label; a coordinate that is not a number or lies off the film by more than 5 % of its size; a
        box turned inside out.
    """
    table = folder / "annotations.csv"
    columns = ("id", "set", "kind", "label", "x1", "y1", "x2", "y2", "original_columns", "original_rows")
    found: dict[str, list[Annotation]] = {}
    for line, row in rows(table, columns):
        if source is not None and row["set"] != source:
            continue
        _known(table, line, row["set"], row["kind"], row["label"])
        width = number(table, line, row["original_columns"], "original_columns", 32, 10_000)
        height = number(table, line, row["original_rows"], "original_rows", 32, 10_000)
        # A point states one place; its second corner is left empty.
        corners = ("x1", "x2", "y1", "y2") if row["kind"] == "box" else ("x1", "x1", "y1", "y1")
        x1, x2 = (_coordinate(table, line, row[name], name, width) for name in corners[:2])
        y1, y2 = (_coordinate(table, line, row[name], name, height) for name in corners[2:])
        if x2 < x1 or y2 < y1:
            raise BadData(table, line, (x1, y1, x2, y2), "the box is turned inside out")
        identifier = _id(table, line, row)
        found.setdefault(identifier, []).append(
            Annotation(identifier, row["set"], row["kind"], row["label"], (x1, y1, x2, y2), int(width), int(height))
        )
    return found
