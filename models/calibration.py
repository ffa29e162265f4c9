"""Fit a reader to the films of one hospital: per method and sex a shift or a straight line to the site's own bone age.

Of the two the one that errs less across the folds is taken; where neither errs less than the method as it is, it is left alone.
The figures before and after are measured on films the line was not fitted to (folds by patient). The 90 % intervals are made
anew from those same errors. A calibration that stands in a bundle carries who signed it, when, and on what.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.metrics import conformal
from models.metrics.ages import AgeErrors, compare
from models.metrics.bootstrap import estimate
from models.metrics.conformal import Intervals
from models.reading import MethodResult
from models.refusal import Refusal
from models.regions import Sex

MINIMUM: Final = 20  # films of one sex; fewer cannot fix a line
SLOPES: Final = (0.6, 1.6)  # a line outside is no calibration: films and table do not belong together
FOLDS: Final = 5
COVERAGE: Final = 0.9
# A film whose hand spans more of its width is cropped to the hand: 95 % of the films of RSNA that were cropped by hand lie above,
# 95 % of those as they were taken below.
CROPPED: Final = 0.83


class CalibrationRefused(Refusal):
    """Films that cannot calibrate a reader; the text names the value and the limit."""


@dataclass(frozen=True, slots=True)
class Line:
    """What turns one method's bone age of one sex into the site's: intercept + slope * years."""

    method: str
    sex: Sex
    slope: float
    intercept_years: float
    from_years: float  # the range of ages it was fitted on; outside, the shift at its end is used
    to_years: float
    n: int

    def apply(self, years: float) -> float:
        """Return the site's bone age."""
        inside = min(max(years, self.from_years), self.to_years)
        return max(0.0, years + (self.slope - 1) * inside + self.intercept_years)


@dataclass(frozen=True, slots=True)
class SignOff:
    """Who approved a calibration, and on what grounds."""

    name: str
    date: str  # ISO 8601
    films: int
    table_sha256: str
    bundle: str  # name and version that was calibrated
    bundle_sha256: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class SiteCalibration:
    """The calibration of one site, as a bundle holds it."""

    site: str
    lines: tuple[Line, ...]
    sign_off: SignOff
    measured: Mapping[str, Any] = field(default_factory=dict)  # before and after, by method and sex

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from the plain form."""
        return cls(
            str(values["site"]),
            tuple(Line(**line) for line in values["lines"]),
            SignOff(**values["sign_off"]),
            values.get("measured", {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that JSON holds."""
        return asdict(self)

    def line(self, method: str, sex: Sex) -> Line | None:
        """Return the line of a method and sex, None where the site has none."""
        return next((line for line in self.lines if (line.method, line.sex) == (method, sex)), None)

    def applied(self, result: MethodResult) -> MethodResult:
        """Return a result on the site's scale, with what it was before; unchanged where the site has no line for it.

        An interval that the method made itself belongs to the former scale and is dropped.
        """
        line, years = self.line(result.name, result.sex), result.bone_age_years
        if line is None or years is None or result.uncalibrated_years is not None:
            return result
        said = f"site calibration {self.site} of {self.sign_off.date}: {years:.2f} years before it"
        return dataclasses.replace(
            result,
            bone_age_years=round(line.apply(years), 4),
            uncalibrated_years=years,
            interval_years=None,
            reference="; ".join(filter(None, (result.reference, said))),
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """One film: a method's bone age beside the site's."""

    patient: str
    sex: Sex
    predicted_years: float
    reference_years: float
    share: float | None = None  # `Reading.hand_share`


def fit(method: str, sex: Sex, pairs: Sequence[Pair], *, straight: bool = True) -> Line:
    """Fit one method and sex by least squares with the largest errors bounded (Huber); not `straight`: a shift alone, slope 1.

    Raises
    ------
    CalibrationRefused
        With fewer than `MINIMUM` films, or a slope outside `SLOPES`.
    """
    if len(pairs) < MINIMUM:
        raise CalibrationRefused(f"{method}, {sex}: {len(pairs)} films; at least {MINIMUM} are needed")
    line = _fitted(method, sex, pairs, straight=straight)
    if not SLOPES[0] <= line.slope <= SLOPES[1]:
        raise CalibrationRefused(
            f"{method}, {sex}: the slope is {line.slope:.2f}; between {SLOPES[0]} and {SLOPES[1]} is plausible. "
            "Do the films belong to the ages of the table?"
        )
    return line


def _fitted(method: str, sex: Sex, pairs: Sequence[Pair], *, straight: bool) -> Line:
    x = np.array([pair.predicted_years for pair in pairs])
    y = np.array([pair.reference_years for pair in pairs])
    slope, intercept = _huber(x, y) if straight else (1.0, float(np.median(y - x)))
    low, high = np.percentile(x, [2, 98])
    return Line(method, sex, round(slope, 5), round(intercept, 5), round(float(low), 3), round(float(high), 3), len(x))


def _across(method: str, sex: Sex, pairs: Sequence[Pair], seed: int, *, straight: bool) -> list[float]:
    """Return each film's age by the line fitted to the films of the other folds."""
    fold = folds([pair.patient for pair in pairs], seed)
    result = [0.0] * len(pairs)
    for number in range(FOLDS):
        others = [pair for pair, own in zip(pairs, fold, strict=True) if own != number]
        held = [index for index, own in enumerate(fold) if own == number]
        if held:
            line = _fitted(method, sex, others, straight=straight)
            for index in held:
                result[index] = line.apply(pairs[index].predicted_years)
    return result


def _huber(x: NDArray[np.float64], y: NDArray[np.float64], *, limit_years: float = 1.5) -> tuple[float, float]:
    weights = np.ones_like(x)
    slope, intercept = 1.0, 0.0
    for _ in range(30):
        slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(weights)) if np.ptp(x) > 0 else (1.0, float(np.mean(y - x)))
        errors = np.abs(y - (slope * x + intercept))
        weights = np.minimum(1.0, limit_years / np.maximum(errors, 1e-9))
    return float(slope), float(intercept)


def measure(method: str, pairs: Sequence[Pair], *, seed: int = 0) -> tuple[tuple[Line, ...], Intervals, dict[str, Any]]:
    """Fit the lines of one method and say what they gain.

    Returns
    -------
    tuple
        The lines of the sexes that have enough films, the new intervals, and the figures before and after for all films and
        each sex; `left_alone` says which sex has no line and why.
    """
    lines: list[Line] = []
    after: dict[int, float] = {}
    left_alone: dict[str, str] = {}
    sexes: tuple[Sex, Sex] = ("F", "M")
    for sex in sexes:
        chosen = [index for index, pair in enumerate(pairs) if pair.sex == sex]
        of_sex = [pairs[index] for index in chosen]
        after |= {index: pairs[index].predicted_years for index in chosen}
        if not chosen:
            continue
        try:
            # What is fitted to the films gets no credit for them: each choice is judged across the folds.
            options = [
                (_mean_error(across, of_sex), straight, across)
                for straight in (False, True)
                for line in [fit(method, sex, of_sex, straight=straight)]
                for across in [_across(line.method, sex, of_sex, seed, straight=straight)]
            ]
        except CalibrationRefused as refusal:
            left_alone[sex] = str(refusal)
            continue
        error, straight, across = min(options, key=lambda option: option[0])
        raw = _mean_error([pair.predicted_years for pair in of_sex], of_sex)
        if error >= raw:
            left_alone[sex] = (
                f"{method}, {sex}: neither a shift nor a line errs less ({error:.3f} years, {raw:.3f} as it is)"
            )
            continue
        lines.append(fit(method, sex, of_sex, straight=straight))
        after |= dict(zip(chosen, across, strict=True))
    calibrated = [after[index] for index in range(len(pairs))]
    made, inside = intervals(method, pairs, calibrated, seed=seed)
    figures: dict[str, Any] = {}
    for name, chosen in _groups(pairs).items():
        before = _errors([pairs[i].predicted_years for i in chosen], [pairs[i] for i in chosen])
        now = _errors([calibrated[i] for i in chosen], [pairs[i] for i in chosen])
        figures[name] = {
            "before": before,
            "after": now,
            "coverage_of_new_intervals": estimate(
                inside[chosen], lambda rows: float(rows.mean()), patients=[pairs[i].patient for i in chosen]
            ).to_dict(),
        }
    if left_alone:
        figures["left_alone"] = left_alone
    return tuple(lines), made, figures


def _mean_error(predicted: Sequence[float], pairs: Sequence[Pair]) -> float:
    return float(np.mean([abs(value - pair.reference_years) for value, pair in zip(predicted, pairs, strict=True)]))


def _groups(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    groups = {"all": list(range(len(pairs)))}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.sex, []).append(index)
    return groups


def intervals(
    method: str, pairs: Sequence[Pair], predicted: Sequence[float], *, seed: int = 0
) -> tuple[Intervals, NDArray[np.float64]]:
    """Return the intervals from all films, and for each film whether the interval made without its fold holds it.

    `predicted` are the ages the intervals are to lie around: those of the pairs, or calibrated ones.
    """
    reference = [pair.reference_years for pair in pairs]
    sexes = [pair.sex for pair in pairs]
    fold = folds([pair.patient for pair in pairs], seed + 1)
    inside = np.zeros(len(pairs))
    for number in range(FOLDS):
        others, held = np.flatnonzero(fold != number).tolist(), np.flatnonzero(fold == number).tolist()
        made = _banded(
            method, [predicted[i] for i in others], [reference[i] for i in others], [sexes[i] for i in others]
        )
        inside[held] = conformal.measured_coverage(
            made, method, [predicted[i] for i in held], [reference[i] for i in held], [sexes[i] for i in held]
        )
    return _banded(method, predicted, reference, sexes), inside


def rescaled(
    shipped: Intervals, method: str, pairs: Sequence[Pair], *, seed: int = 0, kinds: bool = True
) -> tuple[Intervals, NDArray[np.float64], NDArray[np.float64]]:
    """Return a method's own intervals brought to other films, and for each film those made without its fold.

    The bands stay, whose widths came from more films than there are here. Films cropped to the hand and films as they were taken
    (`CROPPED`) get widths in the ratio of their mean errors; each sex's widths are multiplied by the conformal quantile of the
    error over the width. A sex with too few films for the coverage has none; without a hand's share of each film, or with
    fewer than `MINIMUM` films of a kind, or `kinds` false, the kinds are not told apart.

    Returns
    -------
    tuple
        The intervals; for each film whether the interval made without its fold holds it, and the half width of that one in
        years, NaN where there is none.
    """
    fold = folds([pair.patient for pair in pairs], seed + 1)
    inside, width = np.zeros(len(pairs)), np.full(len(pairs), np.nan)
    own = [shipped.band(method, pair.sex, pair.predicted_years) for pair in pairs]
    base = np.array([np.nan if band is None else band.half_width_years for band in own])
    error = np.array([abs(pair.predicted_years - pair.reference_years) for pair in pairs])
    score = np.where(np.isnan(base), np.inf, error / base)
    edges = _shares(pairs) if kinds else _ALL
    kind = np.zeros(len(pairs), np.int64)
    if len(edges) > 1:
        kind = np.array([pair.share is not None and pair.share >= CROPPED for pair in pairs], np.int64)
    bands = []
    smallest = int(np.ceil(COVERAGE / (1 - COVERAGE) - 1e-9))
    for sex in sorted({pair.sex for pair in pairs}):
        of_sex = np.array([pair.sex == sex for pair in pairs])
        if of_sex.sum() < smallest * FOLDS / (FOLDS - 1):
            continue
        for number in range(FOLDS):
            held = of_sex & (fold == number)
            sizes = _sizes(score[fold != number], kind[fold != number])[kind]
            factor = conformal.half_width((score / sizes)[of_sex & (fold != number)], COVERAGE)
            inside[held], width[held] = (score <= factor * sizes)[held], (factor * sizes * base)[held]
        sizes = _sizes(score, kind)
        factor, films = conformal.half_width((score / sizes[kind])[of_sex], COVERAGE), int(of_sex.sum())
        bands += [
            dataclasses.replace(
                band,
                half_width_years=factor * float(sizes[number]) * band.half_width_years,
                n=films,
                from_share=low,
                to_share=high,
            )
            for number, (low, high) in enumerate(edges)
            for band in shipped.bands
            if (band.method, band.sex) == (method, sex)
        ]
    return Intervals(COVERAGE, tuple(bands)), inside, width


_ALL: Final = ((0.0, conformal.ALL_SHARES),)


def _shares(pairs: Sequence[Pair]) -> tuple[tuple[float, float], ...]:
    """Return the ranges of the hand's share that are told apart: both kinds where there are films enough of each, else one."""
    known = [pair.share for pair in pairs if pair.share is not None]
    cropped = sum(share >= CROPPED for share in known)
    if len(known) < len(pairs) or min(cropped, len(known) - cropped) < MINIMUM:
        return _ALL
    return (0.0, CROPPED), (CROPPED, conformal.ALL_SHARES)


def _sizes(score: NDArray[np.float64], kind: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how large the errors of each kind of film are, by their mean."""
    return np.array([score[np.isfinite(score) & (kind == number)].mean() for number in range(int(kind.max()) + 1)])


def _banded(method: str, predicted: Sequence[float], reference: Sequence[float], sexes: Sequence[Sex]) -> Intervals:
    """Return intervals; a sex with too few films for the coverage has none."""
    smallest = int(np.ceil(COVERAGE / (1 - COVERAGE) - 1e-9))
    kept = [i for i, sex in enumerate(sexes) if sexes.count(sex) >= smallest]
    if not kept:
        return Intervals(COVERAGE, ())
    return conformal.calibrate(
        method,
        [predicted[i] for i in kept],
        [reference[i] for i in kept],
        [sexes[i] for i in kept],
        coverage=COVERAGE,
    )


def _errors(predicted: Sequence[float], pairs: Sequence[Pair]) -> dict[str, Any]:
    found: AgeErrors = compare(
        list(predicted),
        [pair.reference_years for pair in pairs],
        tolerance=1.0,
        patients=[pair.patient for pair in pairs],
    )
    return {
        "mae_years": found.mae.to_dict(),
        "within_one_year": found.within.to_dict(),
        "bias_years": round(found.bland_altman.bias, 4),
        "limits_of_agreement_years": [round(found.bland_altman.low, 3), round(found.bland_altman.high, 3)],
    }


def folds(patients: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return each film's fold; the films of one patient share theirs."""
    names = sorted(set(patients))
    drawn = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % FOLDS, strict=True))
    return np.array([int(drawn[patient]) for patient in patients], dtype=np.int64)
