"""One row a film and method: what was read beside what is known."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.datasets import readings
from models.datasets.archive import Film
from models.pixels import UnreadablePixels
from models.reader import Reader
from models.reading import Reading
from models.refusal import Refusal
from models.regions import Sex

COLUMNS: Final = (
    "file", "patient", "sex", "method", "reference_years", "bone_age_years", "error_years", "low_years", "high_years",
    "chronological_age_years", "alarm", "missing",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What one method says of one film; `missing` is why it gives no age."""

    years: float | None
    interval_years: tuple[float, float] | None = None
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One film that was read."""

    film: Film
    sex: Sex
    reference_years: float
    answers: Mapping[str, Answer]  # by method
    spread_years: float | None = None
    alarm: bool = False
    stages: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # label and its probability, by bone


class NothingToMeasure(Refusal):
    """No film of the table has both a sex and a bone age."""


def read(
    reader: Reader, films: Sequence[Film], done: Callable[[], None] = lambda: None
) -> Iterator[tuple[Film, Reading | str]]:
    """Read the films; yield each with its reading, or with the reason why its pixels cannot be loaded."""
    for film in films:
        try:
            image = film.load()
        except UnreadablePixels as error:
            yield film, str(error)
        else:
            yield film, reader.read(image, film.sex, film.chronological_age_years)
        done()


class OtherBundle(Refusal):
    """Readings that another bundle made; the text names both."""


def kept(path: Path, films: Sequence[Film], bundle_sha256: str) -> Iterator[tuple[Film, Reading | str]]:
    """Yield the films with the readings of a file that `carpus read FOLDER --json` wrote; one that is not there is missing.

    Raises
    ------
    OtherBundle
        When a reading was made by another bundle than the one measured.
    BadData
        When the file holds a line that is no reading.
    """
    read_before = readings.read(path)
    for film in films:
        line = read_before.get(film.file)
        if line is None:
            yield film, f"{path.name} holds no reading of it"
        elif line.error is not None:
            yield film, line.error
        else:
            reading = line.reading()
            if reading.bundle.sha256 != bundle_sha256:
                made = f"{reading.bundle.name} {reading.bundle.version}, sha256 {reading.bundle.sha256[:12]}…"
                raise OtherBundle(
                    f"{path.name} was read by another bundle ({made}) than the one measured (sha256 {bundle_sha256[:12]}…); read again"
                )
            yield film, reading


def cases(found_of: Iterator[tuple[Film, Reading | str]]) -> list[Case]:
    """Turn readings of films with a known bone age and sex into cases; a film that was not read misses every method.

    Raises
    ------
    NothingToMeasure
        When no film has both.
    """
    found: list[Case] = []
    unread: list[tuple[Film, Sex, float, str]] = []
    methods: dict[str, None] = {}
    for film, reading in found_of:
        if film.sex is None or film.bone_age_years is None:
            continue
        if isinstance(reading, str):
            unread.append((film, film.sex, film.bone_age_years, reading))
            continue
        refusal = "" if reading.verdict.accepted else "; ".join(reason.text for reason in reading.verdict.reasons)
        answers = {
            result.name: Answer(result.bone_age_years, result.interval_years, result.reason or refusal)
            for result in reading.methods
            if result.sex == film.sex
        }
        if not answers:
            unread.append((film, film.sex, film.bone_age_years, refusal or "no method answered"))
            continue
        methods |= dict.fromkeys(answers)
        stages = {r.name: (r.stage.label, r.stage.probability) for r in reading.regions if r.stage is not None}
        agreement = reading.agreement
        found.append(
            Case(film, film.sex, film.bone_age_years, answers, agreement.spread_years, agreement.alarm, stages)
        )
    found += [
        Case(film, sex, years, {method: Answer(None, missing=why) for method in methods})
        for film, sex, years, why in unread
    ]
    if not methods:
        raise NothingToMeasure("no film with a sex and a bone age was read; films.csv needs sex and bone_age_years")
    return found


def write(path: Path, measured: Sequence[Case]) -> None:
    """Write one row a film and method."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for case in measured:
            for method, answer in case.answers.items():
                low, high = answer.interval_years or (None, None)
                error = None if answer.years is None else answer.years - case.reference_years
                table.writerow(
                    {
                        "file": case.film.file,
                        "patient": case.film.patient,
                        "sex": case.sex,
                        "method": method,
                        "reference_years": round(case.reference_years, 3),
                        "bone_age_years": _rounded(answer.years),
                        "error_years": _rounded(error),
                        "low_years": _rounded(low),
                        "high_years": _rounded(high),
                        "chronological_age_years": _rounded(case.film.chronological_age_years),
                        "alarm": case.alarm,
                        "missing": answer.missing,
                    }
                )


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 3)
