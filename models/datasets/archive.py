"""A hospital's films: a folder of DICOM files or pictures and a table `films.csv`, one row a film.

Columns: `file` (relative to the folder) and `sex` (F or M; O or empty for unknown); optional `patient` (a pseudonym; the file
is its own patient where it is missing), `bone_age_years`, `chronological_age_years`, and `stage_<bone>` with RUS-CHN labels.
Every row is checked before anything is read; other columns are left alone.
"""

import hashlib
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models import pixels
from models.datasets.documents import is_film, rows
from models.datasets.faults import BadData
from models.datasets.splits import PARTS
from models.image import Image
from models.regions import RUS, Sex
from models.standards import RUS_CHN

TABLE: Final = "films.csv"
OLDEST_YEARS: Final = {"bone_age_years": 25.0, "chronological_age_years": 120.0}
_SEXES: Final[Mapping[str, Sex | None]] = {"F": "F", "M": "M", "O": None, "": None}


@dataclass(frozen=True, slots=True)
class Film:
    """One row of the table."""

    path: Path
    file: str
    patient: str
    sex: Sex | None
    bone_age_years: float | None = None
    chronological_age_years: float | None = None
    stages: Mapping[str, str] = field(default_factory=dict)  # RUS-CHN label by bone

    def load(self) -> Image:
        """Return the pixels as a film received is loaded."""
        return pixels.load(self.path)

    @property
    def part(self) -> str:
        """The patient's part by a hash of the pseudonym: a tenth each to validation and test, the same on every machine."""
        tenth = hashlib.sha256(f"carpus-archive-1:{self.patient}".encode()).digest()[0] % 10
        return PARTS[{0: 2, 1: 1}.get(tenth, 0)]


def read(table: Path, *, needs: Sequence[str] = ()) -> list[Film]:
    """Read a table, or the `films.csv` of a folder.

    Parameters
    ----------
    needs
        Optional columns that this use cannot do without; a row that leaves one empty is refused.

    Raises
    ------
    BadData
        With file, line, value and what would be right: a missing column or file, a value out of range, a film listed twice,
        a patient with two sexes.
    """
    path = table / TABLE if table.is_dir() else table
    films = {line: _film(path, line, row, needs) for line, row in rows(path, ("file", "sex", *needs))}
    if not films:
        raise BadData(path, None, "no rows", "the table names no film")
    _consistent(path, films)
    return list(films.values())


def _film(table: Path, line: int, row: Mapping[str, str], needs: Sequence[str]) -> Film:
    values = {name: value.strip() for name, value in row.items()}
    for name in needs:
        if not values[name]:
            raise BadData(table, line, "", f"{name} is empty; this use needs it in every row")
    sex = values["sex"].upper()
    if sex not in _SEXES:
        raise BadData(table, line, values["sex"], "sex is F, M, O or empty")
    path = table.parent / values["file"]
    if not values["file"] or not is_film(path) or Path(values["file"]).is_absolute():
        raise BadData(table, line, values["file"], "there is no such file in the table's folder")
    stages = {bone: values[f"stage_{bone}"] for bone in RUS if values.get(f"stage_{bone}")}
    for bone, label in stages.items():
        if label not in RUS_CHN.levels(bone):
            known = ", ".join(RUS_CHN.levels(bone))
            raise BadData(table, line, label, f"{bone} has no such RUS-CHN stage; it has {known}")
    return Film(
        path,
        values["file"],
        values.get("patient") or values["file"],
        _SEXES[sex],
        _age(table, line, values, "bone_age_years"),
        _age(table, line, values, "chronological_age_years"),
        stages,
    )


def _age(table: Path, line: int, values: Mapping[str, str], column: str) -> float | None:
    text = values.get(column, "")
    if not text:
        return None
    limit = OLDEST_YEARS[column]
    try:
        years = float(text)
    except ValueError:
        raise BadData(table, line, text, f"{column} is no number") from None
    if not 0 <= years <= limit:
        raise BadData(table, line, text, f"{column} lies outside 0 to {limit:g} years")
    return years


def _consistent(table: Path, films: Mapping[int, Film]) -> None:
    sexes: dict[str, Sex | None] = {}
    seen: set[str] = set()
    for line, film in films.items():
        place = os.path.normpath(film.path)
        if place in seen:
            raise BadData(table, line, film.file, "the film is listed twice")
        seen.add(place)
        if sexes.setdefault(film.patient, film.sex) != film.sex:
            raise BadData(table, line, film.patient, f"one patient with the sexes {sexes[film.patient]} and {film.sex}")
