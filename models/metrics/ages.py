"""Compare bone ages with the reference."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.metrics.bootstrap import Estimate, estimate


@dataclass(frozen=True, slots=True)
class BlandAltman:
    """Mean difference (prediction minus reference) and the limits between which 95 % of differences are expected."""

    bias: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class AgeErrors:
    """How far predictions lie from the reference, in the unit of both.

    `missed` cases have no prediction: they are not in the errors, and they count as outside every tolerance.
    """

    mae: Estimate
    rmse: Estimate
    within: Estimate
    tolerance: float
    correlation: float
    bland_altman: BlandAltman
    n: int
    missed: int


def differences(predicted: Sequence[float | None], reference: Sequence[float]) -> NDArray[np.float64]:
    """Prediction minus reference, (n,); NaN where there is no prediction."""
    if len(predicted) != len(reference):
        raise ValueError(f"{len(predicted)} predictions do not match {len(reference)} references")
    values = np.array([np.nan if value is None else float(value) for value in predicted])
    result: NDArray[np.float64] = values - np.asarray(reference, dtype=np.float64)
    return result


def mae(rows: NDArray[np.float64]) -> float:
    """Mean absolute difference of the cases with a prediction."""
    return float(np.nanmean(np.abs(rows)))


def rmse(rows: NDArray[np.float64]) -> float:
    """Root of the mean squared difference of the cases with a prediction."""
    return float(np.sqrt(np.nanmean(rows**2)))


def share_within(rows: NDArray[np.float64], tolerance: float) -> float:
    """Share of all cases whose difference is at most the tolerance; a missed case is outside it."""
    return float(np.mean(np.nan_to_num(np.abs(rows), nan=np.inf) <= tolerance))


def bland_altman(rows: NDArray[np.float64]) -> BlandAltman:
    """Bias and limits of agreement, bias plus and minus 1.96 standard deviations."""
    known = rows[~np.isnan(rows)]
    bias, sd = float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else 0.0
    return BlandAltman(bias, sd, bias - 1.96 * sd, bias + 1.96 * sd)


def compare(
    predicted: Sequence[float | None],
    reference: Sequence[float],
    *,
    tolerance: float,
    patients: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> AgeErrors:
    """Measure predictions in the unit of the reference; `tolerance` is one year in that unit (12 for months).

    Raises
    ------
    ValueError
        When no case has a prediction.
    """
    rows = differences(predicted, reference)
    known = ~np.isnan(rows)
    if not known.any():
        raise ValueError(f"none of {len(rows)} cases has a prediction")
    names = list(range(len(rows))) if patients is None else list(patients)
    of_known = [name for name, is_known in zip(names, known, strict=True) if is_known]
    truth = np.asarray(reference, dtype=np.float64)[known]
    guess = rows[known] + truth
    spread = len(truth) > 1 and truth.std() > 0 and guess.std() > 0
    return AgeErrors(
        mae=estimate(rows[known], mae, patients=of_known, seed=seed),
        rmse=estimate(rows[known], rmse, patients=of_known, seed=seed),
        within=estimate(rows, lambda r: share_within(r, tolerance), patients=names, seed=seed),
        tolerance=tolerance,
        correlation=float(np.corrcoef(guess, truth)[0, 1]) if spread else float("nan"),
        bland_altman=bland_altman(rows),
        n=len(rows),
        missed=int((~known).sum()),
    )


def by_year(
    reference_years: NDArray[np.float64], male: NDArray[np.bool_], found_years: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Return P2's table 3: n and MAE of girls, boys and both by year of bone age, (from, to].

    A film without an age, NaN in `found_years`, counts in n and not in the mean.
    """
    error = np.abs(found_years - reference_years)
    end = np.maximum(1, np.ceil(reference_years - 1e-4)).astype(int)
    rows = []
    for year in sorted(set(end.tolist())):
        row: dict[str, Any] = {"years": f"({year - 1}, {year}]"}
        for name, chosen in (("F", ~male), ("M", male), ("all", male | True)):
            own = error[chosen & (end == year)]
            known = own[np.isfinite(own)]
            row[name] = {"n": len(own), "mae_years": round(float(known.mean()), 3) if len(known) else None}
        rows.append(row)
    return rows
