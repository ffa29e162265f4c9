"""Read films from disk for a person: one file, or a folder by a table of cases; no PACS, no database.

A folder gives one JSON line a case, in the order of the table. A case that cannot be read is a line with its `error`; it
stops nobody else's.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from PIL import Image as Picture

from models import overlay, pixels, registry
from models.datasets import documents
from models.datasets.faults import BadData
from models.image import Image
from models.reader import Reader
from models.reading import Reading
from models.regions import Sex
from service.bundle import named
from service.errors import InvalidConfiguration, InvalidInstance

COLUMNS: Final = ("file", "sex")
AGE_COLUMN: Final = "chronological_age_years"
OLDEST_YEARS: Final = 120.0
_SEXES: Final[Mapping[str, Sex | None]] = {"F": "F", "M": "M", "O": None, "": None}


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table; `fault` says what is wrong with it, if anything is."""

    line: int
    file: str
    sex: Sex | None = None
    chronological_age_years: float | None = None
    fault: str | None = None


def load_reader(bundle: str) -> Reader:
    """Load a bundle; weights that are refused are a matter of configuration.

    Raises
    ------
    InvalidConfiguration
        With the expected and the found value.
    """
    with named():
        return registry.load(bundle)


def read_film(reader: Reader, path: Path, sex: Sex | None, age_years: float | None) -> tuple[Image, Reading]:
    """Read one film; return it with its Reading.

    Raises
    ------
    InvalidInstance
        When the file holds no film.
    """
    try:
        image = pixels.load(path)
    except pixels.UnreadablePixels as error:
        raise InvalidInstance(f"{path}: {error}", code=error.code) from error
    return image, reader.read(image, sex, age_years)


def save_overlay(path: Path, image: Image, reading: Reading) -> None:
    """Write the film with its findings as a picture; its suffix decides the format."""
    try:
        Picture.fromarray(overlay.draw(image, reading)).save(path)
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(f"cannot write the overlay {path}: {error}") from error


def load_cases(path: Path) -> list[Case]:
    """Read the table of cases.

    Raises
    ------
    InvalidConfiguration
        When the table cannot be read, lacks a column or has one twice. A bad row is a case with its `fault`, which names line and value.
    """
    try:
        return [_case(line, row) for line, row in documents.rows(path, COLUMNS)]
    except BadData as error:
        raise InvalidConfiguration(str(error), code="bad-table") from error


def read_folder(
    reader: Reader, folder: Path, cases: Iterable[Case], *, done: Callable[[], None] = lambda: None
) -> Iterator[dict[str, Any]]:
    """Read every case; yield its line: the Reading with `file` added, or `file`, `error` and the error's `code`."""
    for case in cases:
        yield {"file": case.file, **_line(reader, folder, case)}
        done()


def csv_rows(line: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Turn one line into the rows of a table, one for each method and curve, or one with the error or the rejection."""
    common = {"file": line["file"]}
    if "error" in line:
        yield {**common, "error": line["error"]}
        return
    common |= {"sex": line["sex"] or "", "agreement_alarm": line["agreement"]["alarm"]}
    if not line["verdict"]["accepted"]:
        yield {**common, "reason": "; ".join(reason["text"] for reason in line["verdict"]["reasons"])}
    for method in line["methods"]:
        low, high = method["interval_years"] or (None, None)
        kept = {name: method[name] for name in ("bone_age_years", "score", "qualifier", "reason", "sds")}
        yield {**common, "method": method["name"], "curve": method["sex"], **kept, "low_years": low, "high_years": high}


CSV_COLUMNS: Final = (
    "file", "sex", "method", "curve", "bone_age_years", "low_years", "high_years", "score", "qualifier", "sds",
    "agreement_alarm", "reason", "error",
)  # fmt: skip


@contextmanager
def lines_to(path: str | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open a file of JSON lines; "-" is the standard output, None nothing."""
    if path is None:
        yield lambda line: None
        return
    with _opened(path) as file:

        def write(line: Mapping[str, Any]) -> None:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()

        yield write


@contextmanager
def rows_to(path: Path | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open a CSV table of one row a method; None writes nothing."""
    if path is None:
        yield lambda line: None
        return
    with _opened(str(path)) as file:
        table = csv.DictWriter(file, CSV_COLUMNS)
        table.writeheader()
        yield lambda line: table.writerows(csv_rows(line))


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with _opened(str(path)) as file:
        file.write(text)


def sex_of(text: str) -> Sex | None:
    """Return F or M; None for O and for nothing.

    Raises
    ------
    ValueError
        For anything else.
    """
    key = text.strip().upper()
    if key not in _SEXES:
        raise ValueError(f"sex is {text!r}; F, M, O or nothing is needed")
    return _SEXES[key]


@contextmanager
def _opened(path: str) -> Iterator[TextIO]:
    if path == "-":
        yield sys.stdout
        return
    try:
        file = Path(path).open("w", encoding="utf-8", newline="")  # noqa: SIM115 - only the opening is guarded
    except OSError as error:
        raise InvalidConfiguration(f"cannot write {path}: {error.strerror}") from error
    with file:
        yield file


def _line(reader: Reader, folder: Path, case: Case) -> dict[str, Any]:
    if case.fault is not None:
        return {"error": case.fault, "code": "bad-row"}
    try:
        return read_film(reader, folder / case.file, case.sex, case.chronological_age_years)[1].to_dict()
    except InvalidInstance as error:
        return {"error": str(error), "code": error.code}


def _case(line: int, row: Mapping[str, str]) -> Case:
    """Check one row; every fault names the line and the value."""
    file, age = row["file"].strip(), row.get(AGE_COLUMN, "").strip()
    if not file:
        return Case(line, file, fault=f"line {line}: file is empty")
    try:
        sex = sex_of(row["sex"])
    except ValueError as error:
        return Case(line, file, fault=f"line {line}: {error}")
    try:
        years = float(age) if age else None
    except ValueError:
        return Case(line, file, fault=f"line {line}: {AGE_COLUMN} is {age!r}; a number of years is needed")
    if years is not None and not (np.isfinite(years) and 0 <= years <= OLDEST_YEARS):
        return Case(line, file, fault=f"line {line}: {AGE_COLUMN} is {age}; it must lie between 0 and {OLDEST_YEARS:g}")
    return Case(line, file, sex, years)
