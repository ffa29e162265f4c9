"""Measure a weights folder on films that were not trained on, and end with one JSON line.

`python -m models.regression.evaluate --data DATA --weights models/bundles/regression/rsna-cnn --json benchmarks/accuracy/regression.json`

Thumbnails of the test part go through the network as they are. The films of `fullres`, `medium` and `validation` are
loaded as a film received is (`models.pixels`) and go through `Regressor.estimate`, the path that serves.
"""

import argparse
import csv
import json
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import calibration, pixels, refusal
from models.calibration import Pair
from models.datasets import rsna
from models.datasets.faults import BadData
from models.engine import git_commit
from models.metrics import conformal
from models.metrics.ages import by_year, compare
from models.metrics.bootstrap import estimate
from models.regions import Sex
from models.regression import widths
from models.regression.data import load, part_of, whole_films
from models.regression.network import SEXES
from models.regression.predict import BOTH_SEXES, Regressor, interval_parts
from models.weights import digest


@dataclass(frozen=True, slots=True)
class Case:
    """One film: what was predicted and what is true, in months."""

    identifier: str
    sex: Sex
    reference_months: float
    predicted_months: float | None

    @property
    def pair(self) -> Pair | None:
        """What intervals are measured on, in years."""
        if self.predicted_months is None:
            return None
        return Pair(self.identifier, self.sex, self.predicted_months / 12, self.reference_months / 12)


Inside = Mapping[str, float]  # film -> 1 where its interval holds its reference, else 0


def _held(regressor: Regressor, cases: Sequence[Case]) -> Inside:
    """Return which films the intervals beside the weights hold."""
    pairs = [pair for case in cases if (pair := case.pair) is not None]
    inside = conformal.measured_coverage(
        regressor.intervals,
        regressor.name,
        [pair.predicted_years for pair in pairs],
        [pair.reference_years for pair in pairs],
        [pair.sex for pair in pairs],
    )
    return {pair.patient: float(value) for pair, value in zip(pairs, inside, strict=True)}


def _summary(cases: Sequence[Case], inside: Inside, coverage: str) -> dict[str, Any]:
    """Errors of all cases, of each sex and of each three years of age, and under the name `coverage` that of the intervals."""
    groups: dict[str, list[Case]] = {"all": list(cases)}
    for case in cases:
        groups.setdefault("girls" if case.sex == "F" else "boys", []).append(case)
        start = int(case.reference_months // 36) * 3
        groups.setdefault(f"{start} to {start + 3} years", []).append(case)
    return {name: _errors(group, inside, coverage) for name, group in sorted(groups.items()) if len(group) >= 10}


def _errors(cases: Sequence[Case], inside: Inside, coverage: str) -> dict[str, Any]:
    errors = compare([c.predicted_months for c in cases], [c.reference_months for c in cases], tolerance=12)
    held = np.array([inside[case.identifier] for case in cases if case.predicted_months is not None])
    return {
        "n": errors.n,
        "missed": errors.missed,
        "mae_months": errors.mae.to_dict(),
        "rmse_months": errors.rmse.to_dict(),
        "within_12_months": errors.within.to_dict(),
        "correlation": round(errors.correlation, 4),
        "bias_months": round(errors.bland_altman.bias, 3),
        "limits_of_agreement_months": [round(errors.bland_altman.low, 2), round(errors.bland_altman.high, 2)],
        coverage: estimate(held, lambda rows: float(rows.mean())).to_dict(),
    }


def _coverage(part: str) -> str:
    """Name the coverage of a part: whole films are served with the widths of a bundle, not with those beside the weights."""
    return "coverage_of_90_percent_intervals" if "thumbnails" in part else "coverage_by_widths_of_thumbnails_not_served"


def _by_year(cases: Sequence[Case]) -> list[dict[str, Any]]:
    found = [math.nan if case.predicted_months is None else case.predicted_months / 12 for case in cases]
    reference = np.array([case.reference_months / 12 for case in cases])
    return by_year(reference, np.array([case.sex == "M" for case in cases]), np.array(found))


def thumbnails_of(regressor: Regressor, data: Path, part: str) -> list[Case]:
    """Read the thumbnails of one part, except those that are also there as whole films."""
    thumbnails, whole = load(data), whole_films(data)
    chosen = np.array([part_of(int(i), whole) == part and int(i) not in whole for i in thumbnails.ids])
    films = thumbnails.take(chosen)
    cases = []
    for start in range(0, len(films), 64):
        rows = films.take(np.arange(start, min(start + 64, len(films))))
        months = regressor.months(torch.from_numpy(rows.films).float()[:, None] / 255, rows.sex.tolist())
        for index, month in enumerate(months):
            sex = BOTH_SEXES[BOTH_SEXES.index(SEXES[rows.sex[index]])]
            cases.append(Case(str(rows.ids[index]), sex, float(rows.months[index]), month))
    return cases


def films_of(regressor: Regressor, data: Path, folder: str) -> tuple[list[Case], list[float]]:
    """Read whole films as they are served; also the milliseconds each `estimate` took."""
    cases, durations = [], []
    for film in rsna.films(data, subset=folder):
        predicted = None
        try:
            image = pixels.load(film.path)
        except pixels.UnreadablePixels as error:
            print(f"{film.path.name}: {error.code}", file=sys.stderr)  # noqa: T201
        else:
            began = time.perf_counter()
            (result,) = regressor.estimate(image, film.sex)
            durations.append((time.perf_counter() - began) * 1000)
            predicted = None if result.bone_age_years is None else result.bone_age_years * 12
        cases.append(Case(film.id, film.sex, film.bone_age_years * 12, predicted))
    return cases, durations


def write_rows(path: Path, parts: Mapping[str, Sequence[Case]]) -> None:
    """Write one row a case."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "id", "sex", "reference_months", "predicted_months"])
        for part, cases in parts.items():
            for c in cases:
                predicted = "" if c.predicted_months is None else round(c.predicted_months, 2)
                writer.writerow([part, c.identifier, c.sex, c.reference_months, predicted])


def main() -> None:
    """Measure, write the results, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--rows", type=Path, help="where a CSV with one row a case goes")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    regressor = Regressor(options.weights)
    used = interval_parts(regressor.metadata)
    thumbnails = {part: thumbnails_of(regressor, options.data, part) for part in {"test", *used}}
    parts: dict[str, list[Case]] = {"test thumbnails": thumbnails["test"]}
    # Films that the intervals were made from say nothing of them: those are judged by intervals made without them.
    pairs = [pair for part in used for case in thumbnails[part] if (pair := case.pair) is not None]
    _, kept = calibration.intervals(regressor.name, pairs, [pair.predicted_years for pair in pairs])
    across = {pair.patient: float(value) for pair, value in zip(pairs, kept, strict=True)}
    made_from = ("test thumbnails",) if "test" in used else ()
    durations: list[float] = []
    for folder in ("fullres", "medium", "validation"):
        parts[f"{folder} films"], took = films_of(regressor, options.data, folder)
        durations += took
    if not durations:
        raise BadData(
            options.data / "images.csv", None, "fullres, medium, validation", "no film of these folders was read"
        )
    inside = {name: across if name in made_from else _held(regressor, cases) for name, cases in parts.items()}
    summaries = {name: _summary(cases, inside[name], _coverage(name)) for name, cases in parts.items()}
    result = {
        "problem": "regression",
        "method": regressor.name,
        "weights_sha256": digest(options.weights),
        "terms": regressor.metadata.terms,
        "commit": git_commit(),
        "split_sha256": regressor.metadata.split_sha256,
        "data": "RSNA Pediatric Bone Age Challenge 2017; ids 4360 to 4559 held out",
        "seed": regressor.metadata.seed,
        "members": regressor.metadata.hyperparameters["members"],
        "command": "python -m models.regression.evaluate --data DATA --weights WEIGHTS --json RESULT",
        "hardware": f"{platform.machine()}, {options.threads} thread(s), no GPU",
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "interval": "95 % percentile bootstrap by patient, 2000 resamples",
        "parts": summaries,
        "coverage_across_folds": {"parts": used, **widths.held(pairs, kept)},
        "by_year": _by_year(parts["test thumbnails"]),
        "estimate_ms": {
            "p50": round(float(np.percentile(durations, 50)), 2),
            "p95": round(float(np.percentile(durations, 95)), 2),
            "n": len(durations),
        },
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.rows:
        write_rows(options.rows, parts)
    line = {name: part["all"]["mae_months"] for name, part in summaries.items() if part}
    print(json.dumps({"mae_months": line, "estimate_ms": result["estimate_ms"]}))  # noqa: T201


if __name__ == "__main__":
    refusal.command(main)
