r"""Fit what a bundle says beside its ages: the intervals of its methods, and the thresholds of its alarms.

    python -m models.agreement --tuning ../runs/aged/tuning.json --readings readings.jsonl --bundle models/bundles/default.json

The stages are those of graders tuned without the film (`models.grading.tune`), read by the weighting and the prior of the hand that
the bundle names; the other ages are those of readings by weights that never saw it. Intervals are split conformal by sex and age
band, those that lie beside the weights of a method brought to these films by a factor for each sex and for films cropped to the
hand or not; their coverage is measured across folds by patient. The alarm is to be rare where a film is read well: the threshold is the
spread that 95 % of the films stay below whose default method lies within a year and a half of the reference. What it then finds of
the gross errors is measured, not chosen. The remark on stages that lie apart is set the same way. How the end of growth is read
(`late_end`) is measured on the films given at least the age that the youngest reading of a nearly mature hand was given.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models import calibration, refusal, registry
from models.calibration import FOLDS, Pair
from models.datasets import documents, readings
from models.grading import tuned
from models.metrics.bootstrap import estimate
from models.metrics.conformal import Band, Intervals
from models.reading import Reading, Stage
from models.regions import RUS, Sex
from models.regression.predict import INTERVALS_FILE
from models.regression.predict import intervals_of as intervals_beside
from models.scoring import FINE, LateEnd, Scoring
from models.standards import STANDARDS, harmony
from models.standards.stages import named_stage

GOOD_YEARS: Final = 1.5  # a film is read well when the default method lies within so much of the reference
GROSS_YEARS: Final = 2.0
QUIET: Final = 0.95  # share of the films read well that the alarm leaves alone
ENDING_YEARS: Final[Mapping[Sex, float]] = {"F": 15.0, "M": 16.0}  # bone ages from which on growth is nearly over
BOTH: Final[tuple[Sex, Sex]] = ("F", "M")
BY_STAGES: Final = tuple(standard.name for standard in STANDARDS)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, measure, and write both into the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", type=Path, required=True, help="tuning.json with its cross-validation")
    parser.add_argument(
        "--readings", type=Path, required=True, help="JSON lines of `carpus read` for the other methods"
    )
    parser.add_argument(
        "--bundle", type=Path, required=True, help="bundle file to write the intervals and the threshold into"
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        help="a method whose intervals in the bundle stay, such as those of a larger cross-validation; may be given again",
    )
    parser.add_argument("--json", type=Path, required=True, help="results file")
    options = parser.parse_args(argv)
    rows = tuned.rows_of(options.tuning)
    read = {file: line.reading() for file, line in readings.read(options.readings).items() if line.error is None}
    others = {file: _others(reading) for file, reading in read.items()}
    share = {file: reading.hand_share for file, reading in read.items()}
    registry.describe(str(options.bundle))  # refused here, with what is wrong, before anything is measured
    values = documents.read_object(options.bundle, "default_method")
    prior = values.get("hand_prior")
    scoring = Scoring(
        registry.parse_weighting(values.get("weighting", "TopN")),
        hand_prior=None if prior is None else harmony.HandPrior(**prior),
    )
    stages = staged(options.tuning.parent, rows, scoring)
    films = [
        {**ages_of(scoring, own, row["sex"]), **others.get(row["file"], {})}
        for row, own in zip(rows, stages, strict=True)
    ]
    sexes: list[Sex] = [row["sex"] for row in rows]
    truth = np.array([row["bone_age_years"] for row in rows])
    patients = [Path(row["file"]).stem for row in rows]
    shares = [share.get(row["file"]) for row in rows]

    made, results = [*BY_STAGES, *sorted({name for film in others.values() for name in film})], {}
    bands, shipped = kept_bands(values, options.keep, made), shipped_with_weights(options.bundle)
    for method in made:
        intervals, results[method] = intervals_of(method, films, truth, sexes, patients, shipped, shares)
        if method not in options.keep:
            bands += intervals.bands
    default = str(values["default_method"])
    spread = spreads(films)
    threshold, alarm = threshold_of(spread, _column(films, default) - truth, patients)
    values["intervals"] = Intervals(calibration.COVERAGE, tuple(bands)).to_dict()
    values["agreement_threshold_years"] = threshold
    discord = discords(stages, films, sexes)
    error = _column(films, default) - truth
    well = np.isfinite(discord) & (np.abs(error) <= GOOD_YEARS)
    values["discord_threshold"] = round(float(np.quantile(discord[well], QUIET, method="higher")), 2)
    late = {sex: found for sex in BOTH if (found := late_end(sex, _column(films, FINE), truth, sexes)) is not None}
    values["late_end"] = {sex: dataclasses.asdict(found) for sex, found in late.items()}
    gross = np.isfinite(discord) & (np.abs(error) > GROSS_YEARS)
    options.bundle.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report = {
        "problem": "uncertainty",
        "data": f"{len(rows)} films of RSNA never seen by the weights that read them",
        "command": "python -m models.agreement --tuning TUNING --readings READINGS --bundle BUNDLE --json RESULT",
        "interval": "95 % percentile bootstrap by patient",
        "intervals_kept": list(options.keep),
        "coverage_of_90_percent_intervals": results,
        "alarm": alarm,
        "end_of_growth": values["late_end"],
        "discord": {
            "threshold": values["discord_threshold"],
            "median": round(float(np.nanmedian(discord)), 3),
            "remark_where_grossly_wrong": None
            if not gross.any()
            else estimate(
                (discord[gross] > values["discord_threshold"]).astype(np.float64), lambda r: float(r.mean())
            ).to_dict(),
        },
    }
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def shipped_with_weights(bundle: Path) -> Intervals:
    """Return the intervals that lie beside the weights a bundle names."""
    folders = [folder for _, folder, card in registry.describe(str(bundle)).parts if INTERVALS_FILE in card.files]
    return Intervals(calibration.COVERAGE, tuple(band for folder in folders for band in intervals_beside(folder).bands))


def kept_bands(values: Mapping[str, Any], methods: Sequence[str], made: Sequence[str] = BY_STAGES) -> list[Band]:
    """Return the bands of a bundle file that stay: those of `methods`, and of every method that is not `made` now.

    Raises
    ------
    Refusal
        When a method that is to be kept has no bands in the file, or bands of another coverage.
    """
    had = Intervals.from_dict(values["intervals"]) if values.get("intervals") else Intervals(calibration.COVERAGE, ())
    bands = [band for band in had.bands if band.method in methods or band.method not in made]
    for method in methods:
        if not any(band.method == method for band in bands):
            raise refusal.Refusal(f"--keep {method}: the bundle holds no intervals of it")
    if bands and had.coverage != calibration.COVERAGE:
        raise refusal.Refusal(f"the bundle's intervals cover {had.coverage:g}, those made now {calibration.COVERAGE:g}")
    return bands


def intervals_of(
    method: str,
    films: Sequence[Mapping[str, float | None]],
    truth: NDArray[np.float64],
    sexes: Sequence[Sex],
    patients: Sequence[str],
    shipped: Intervals,
    shares: Sequence[float | None],
) -> tuple[Intervals, dict[str, Any]]:
    """Return the intervals of one method, `shipped` ones brought to these films, and what they do on films of other folds.

    That is the share of films that they hold, of all, of each sex, and of films cropped to the hand and as they were taken; for
    `shipped` ones also the mean half width and interval score (Gneiting and Raftery 2007, section 6.2: width plus 20 times
    what is missed by; less is better), and the same with one width for both kinds of film.
    """
    ages = _column(films, method)
    known = np.flatnonzero(np.isfinite(ages)).tolist()
    pairs = [Pair(patients[i], sexes[i], float(ages[i]), float(truth[i]), shares[i]) for i in known]
    result: dict[str, Any] = {}
    if any(band.method == method for band in shipped.bands):
        _, *before = calibration.rescaled(shipped, method, pairs, kinds=False)
        intervals, inside, width = calibration.rescaled(shipped, method, pairs)
        result["one_width_for_both_kinds"] = {**_held(before[0], pairs), **_score(before[1], pairs)}
        result |= _score(width, pairs)
    else:
        intervals, inside = calibration.intervals(method, pairs, [pair.predicted_years for pair in pairs])
    widths = [band.half_width_years for band in intervals.bands]
    return intervals, {
        "half_width_years": [round(min(widths), 2), round(max(widths), 2)],
        **_held(inside, pairs),
        **result,
    }


def _held(inside: NDArray[np.float64], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return which share of films the intervals hold, with its interval, for the groups that have films."""
    groups = {
        "all": [True] * len(pairs),
        "F": [pair.sex == "F" for pair in pairs],
        "M": [pair.sex == "M" for pair in pairs],
        "as_taken": [pair.share is not None and pair.share < calibration.CROPPED for pair in pairs],
        "cropped": [pair.share is not None and pair.share >= calibration.CROPPED for pair in pairs],
    }
    own = {name: np.flatnonzero(chosen).tolist() for name, chosen in groups.items() if any(chosen)}
    return {
        name: estimate(
            inside[rows], lambda values: float(values.mean()), patients=[pairs[i].patient for i in rows]
        ).to_dict()
        for name, rows in own.items()
    }


def _score(width: NDArray[np.float64], pairs: Sequence[Pair]) -> dict[str, float]:
    missed = np.array([abs(pair.predicted_years - pair.reference_years) for pair in pairs]) - width
    score = 2 * width + 2 / (1 - calibration.COVERAGE) * np.maximum(0, missed)
    return {
        "mean_half_width_years": round(float(np.nanmean(width)), 4),
        "interval_score_years": round(float(np.nanmean(score)), 4),
    }


def staged(folder: Path, rows: Sequence[Mapping[str, Any]], scoring: Scoring) -> list[Mapping[str, Stage]]:
    """Return each film's stages as the bundle's rules make them of what the cross-validation kept; none where a bone was not found."""
    found: list[Mapping[str, Stage]] = [{} for _ in rows]
    for fold in sorted({row["fold"] for row in rows}):
        chances = tuned.fold_of(folder, fold)
        held = [index for index, row in enumerate(rows) if row["fold"] == fold]
        for own, index in zip(chances, held, strict=True):
            if any(rows[index].get(name) is not None for name in BY_STAGES):
                graded = {bone: named_stage(bone, own[i]) for i, bone in enumerate(RUS)}
                found[index] = scoring.told(graded, (rows[index]["sex"],))
    return found


def ages_of(scoring: Scoring, stages: Mapping[str, Stage], sex: Sex) -> dict[str, float | None]:
    """Return the bone age by every standard, None where there is none."""
    if not stages:
        return dict.fromkeys(BY_STAGES)
    return {result.name: result.bone_age_years for result in scoring.by_stages(stages, (sex,))}


def discords(
    stages: Sequence[Mapping[str, Stage]], films: Sequence[Mapping[str, float | None]], sexes: Sequence[Sex]
) -> NDArray[np.float64]:
    """Return how far apart the stages of each film lie; NaN without a RUS-CHN age."""
    found = np.full(len(films), np.nan)
    for index, (own, film, sex) in enumerate(zip(stages, films, sexes, strict=True)):
        years = film[FINE]
        if years is not None:
            value = harmony.discord({bone: stage.probabilities for bone, stage in own.items()}, years, sex)
            found[index] = np.nan if value is None else value
    return found


def late_end(sex: Sex, years: NDArray[np.float64], truth: NDArray[np.float64], sexes: Sequence[Sex]) -> LateEnd | None:
    """Return how the end of growth is read: of all films given at least the age that a nearly mature hand was given. None without one."""
    own = np.array([one == sex for one in sexes]) & np.isfinite(years)
    ended = own & (truth >= ENDING_YEARS[sex])
    if not ended.any():
        return None
    start = round(float(np.floor(10 * years[ended].min()) / 10), 1)
    given = own & (years >= start)
    return LateEnd(start, int(given.sum()), round(float((truth - years > 1)[given].mean()), 2))


def spreads(films: Sequence[Mapping[str, float | None]]) -> NDArray[np.float64]:
    """Return how far the methods lie apart on each film, NaN with fewer than two."""
    found = []
    for film in films:
        ages = [value for value in film.values() if value is not None]
        found.append(max(ages) - min(ages) if len(ages) > 1 else np.nan)
    return np.array(found)


def threshold_of(
    spread: NDArray[np.float64], error: NDArray[np.float64], patients: Sequence[str], *, seed: int = 0
) -> tuple[float, dict[str, Any]]:
    """Return the alarm's threshold in years and what it does on films of other folds than it was chosen on."""
    known = np.isfinite(spread) & np.isfinite(error)
    spread, size = spread[known], np.abs(error[known])
    names = [patient for patient, is_known in zip(patients, known, strict=True) if is_known]
    fold = calibration.folds(names, seed)
    rung = np.zeros(len(spread), bool)
    for number in range(FOLDS):
        rung[fold == number] = spread[fold == number] > _threshold(spread[fold != number], size[fold != number])
    threshold = round(_threshold(spread, size), 2)

    varied = spread.std() > 0 and size.std() > 0

    def share(chosen: NDArray[np.bool_]) -> dict[str, float | int] | None:
        own = np.flatnonzero(chosen).tolist()
        if not own:
            return None
        rows = rung[own].astype(np.float64)
        return estimate(rows, lambda r: float(r.mean()), patients=[names[i] for i in own]).to_dict()

    return threshold, {
        "threshold_years": threshold,
        "films_that_alarm": share(size >= 0),
        "alarm_where_read_well": share(size <= GOOD_YEARS),
        "alarm_where_grossly_wrong": share(size > GROSS_YEARS),
        "correlation_of_spread_and_error": round(float(np.corrcoef(spread, size)[0, 1]), 3) if varied else None,
    }


def _threshold(spread: NDArray[np.float64], size: NDArray[np.float64]) -> float:
    return float(np.quantile(spread[size <= GOOD_YEARS], QUIET, method="higher"))


def _others(reading: Reading) -> dict[str, float | None]:
    """Return the ages of the methods that do not go by stages, on the curve of the film's sex."""
    return {
        method.name: method.bone_age_years
        for method in reading.methods
        if method.name not in BY_STAGES and method.sex == reading.sex
    }


def _column(films: Sequence[Mapping[str, float | None]], method: str) -> NDArray[np.float64]:
    return np.array([np.nan if film.get(method) is None else film[method] for film in films], np.float64)


if __name__ == "__main__":
    refusal.command(main)
