"""Make a hospital's own bundle: the shipped weights with the calibration its films gave, signed off.

The bundle is a copy of the one calibrated; it names the same weights, by a path relative to itself.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models import calibration, registry, runs, weights
from models.calibration import CalibrationRefused, Line, Pair, SignOff, SiteCalibration
from models.datasets import archive, splits
from models.evaluation import cases
from models.metrics.conformal import Intervals
from models.regions import Sex


@dataclass(frozen=True, slots=True)
class Result:
    """What the films of a site gave."""

    lines: tuple[Line, ...]
    intervals: tuple[Intervals, ...]
    figures: dict[str, Any]  # by method: before and after, all films and each sex
    films: int
    table_sha256: str
    bundle: registry.Description


def calibrate(table: Path, bundle: str, *, readings: Path | None = None, methods: Sequence[str] = ()) -> Result:
    """Read a site's films with a bundle and fit its lines.

    Raises
    ------
    CalibrationRefused
        When the bundle is calibrated already or has learned from this very table, a method is unknown, or no method and sex has
        films enough.
    BadData, BundleRefused, WeightsRefused, NothingToMeasure
        As the table, the bundle and the films make it.
    """
    path = table / archive.TABLE if table.is_dir() else table
    films = archive.read(path, needs=("bone_age_years",))
    description = registry.describe(bundle)
    if (earlier := description.scoring.calibration) is not None:
        raise CalibrationRefused(
            f"bundle {description.path} is calibrated for {earlier.site} already; calibrate the bundle it was made from"
        )
    digest = splits.digest(path)
    for problem, folder, card in description.parts:
        if (
            runs.CONFIG_FILE in card.files
            and json.loads(weights.load_file(folder, runs.CONFIG_FILE)).get("table_sha256") == digest
        ):
            raise CalibrationRefused(
                f"the weights for {problem} in {folder} have learned from the films of {path}: errors on these are too small, and so would "
                "the intervals be; calibrate on films of other patients"
            )
    read = cases.kept(readings, films, description.sha256) if readings else cases.read(registry.load(bundle), films)
    measured = cases.cases(read)
    known = tuple(dict.fromkeys(method for case in measured for method in case.answers))
    for method in methods:
        if method not in known:
            raise CalibrationRefused(f"method {method!r} is not one of {', '.join(known)}")
    lines: list[Line] = []
    intervals: list[Intervals] = []
    figures: dict[str, Any] = {}
    for method in methods or known:
        pairs = [
            Pair(case.film.patient, case.sex, years, case.reference_years)
            for case in measured
            if (answer := case.answers.get(method)) is not None and (years := answer.years) is not None
        ]
        if not pairs:
            continue
        fitted, made, figures[method] = calibration.measure(method, pairs)
        lines += fitted
        intervals.append(made)
    if not figures:
        raise CalibrationRefused("no method gave an age for any film of the table")
    return Result(tuple(lines), tuple(intervals), figures, len(measured), digest, description)


def write(path: Path, result: Result, *, name: str, signed_by: str, note: str = "") -> None:
    """Write the site bundle.

    A site whose films ask for no line still gets the intervals they gave: a bundle may have none of its own.

    Raises
    ------
    CalibrationRefused
        When there is nothing to sign off: no method and sex was calibrated, and none had films enough for intervals of its own.
    """
    films = Counter[tuple[str, Sex]]()
    for made in result.intervals:
        for band in made.bands:
            films[band.method, band.sex] += band.n
    if not result.lines and max(films.values(), default=0) < calibration.MINIMUM:
        reasons = "; ".join(why for row in result.figures.values() for why in row.get("left_alone", {}).values())
        raise CalibrationRefused(f"no method and sex was calibrated: {reasons}")
    source = result.bundle.path
    values = json.loads(source.read_text(encoding="utf-8"))
    for problem in weights.PROBLEMS:
        named = values.get(problem)
        if named:
            many = [named] if isinstance(named, str) else named
            moved = [os.path.relpath(source.parent / folder, path.parent) for folder in many]
            values[problem] = moved[0] if isinstance(named, str) else moved
    own = tuple(band for made in result.intervals for band in made.bands)
    made_anew = {(band.method, band.sex) for band in own}
    shipped = Intervals.from_dict(values["intervals"]).bands if values.get("intervals") else ()
    kept = tuple(band for band in shipped if (band.method, band.sex) not in made_anew)
    sign_off = SignOff(
        name=signed_by,
        date=datetime.now(UTC).date().isoformat(),
        films=result.films,
        table_sha256=result.table_sha256,
        bundle=f"{result.bundle.name} {result.bundle.version}",
        bundle_sha256=result.bundle.sha256,
        note=note,
    )
    values |= {
        "name": f"{values['name']}-{name}",
        "intervals": Intervals(calibration.COVERAGE, kept + own).to_dict(),
        "site_calibration": SiteCalibration(name, result.lines, sign_off, result.figures).to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
