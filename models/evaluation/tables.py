"""Figures of every method: all films, each sex, each year of age; every one with its n and 95 % interval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.evaluation.cases import Case
from models.metrics.ages import by_year, compare
from models.metrics.bootstrap import estimate
from models.regions import Sex

SEXES: tuple[Sex, Sex] = ("F", "M")


def methods(measured: Sequence[Case]) -> tuple[str, ...]:
    """Return the methods that answered, in the order of the readings."""
    return tuple(dict.fromkeys(name for case in measured for name in case.answers))


def figures(measured: Sequence[Case], method: str) -> dict[str, Any]:
    """Return the figures of one method for all films and each sex, and MAE by year of age and sex."""
    groups: dict[str, list[Case]] = {"all": list(measured)}
    for sex in SEXES:
        groups[sex] = [case for case in measured if case.sex == sex]
    return {
        **{name: summary(group, method) for name, group in groups.items() if group},
        "by_year": by_year(
            np.array([case.reference_years for case in measured]),
            np.array([case.sex == "M" for case in measured]),
            np.array([_years(case, method) for case in measured], np.float64),
        ),
    }


def summary(measured: Sequence[Case], method: str) -> dict[str, Any]:
    """Return errors in years, the share within a year and the coverage; without any age only the number missed."""
    predicted = [_years(case, method) for case in measured]
    if all(value is None for value in predicted):
        return {"n": len(measured), "missed": len(measured)}
    patients = [case.film.patient for case in measured]
    found = compare(predicted, [case.reference_years for case in measured], tolerance=1.0, patients=patients)
    result: dict[str, Any] = {
        "n": found.n,
        "missed": found.missed,
        "mae_years": found.mae.to_dict(),
        "rmse_years": found.rmse.to_dict(),
        "within_one_year": found.within.to_dict(),
        "correlation": None if np.isnan(found.correlation) else round(found.correlation, 4),
        "bias_years": round(found.bland_altman.bias, 3),
        "limits_of_agreement_years": [round(found.bland_altman.low, 3), round(found.bland_altman.high, 3)],
    }
    inside = [_inside(case, method) for case in measured]
    known = [(value, patient) for value, patient in zip(inside, patients, strict=True) if value is not None]
    if known:
        rows = np.array([float(value) for value, _ in known])
        result["coverage_of_intervals"] = estimate(
            rows, lambda r: float(r.mean()), patients=[patient for _, patient in known]
        ).to_dict()
    return result


def stages(measured: Sequence[Case]) -> dict[str, Any] | None:
    """Return the shares of bones staged exactly and within one stage, where the table has stages; else None."""
    from models.standards import RUS_CHN

    pairs = [
        (case, bone, label, *case.stages[bone])
        for case in measured
        for bone, label in case.film.stages.items()
        if bone in case.stages
    ]
    if not pairs:
        return None
    patients = [case.film.patient for case, *_ in pairs]
    distance = np.array(
        [RUS_CHN.levels(bone).index(found) - RUS_CHN.levels(bone).index(true) for _, bone, true, found, _ in pairs]
    )
    chance = np.array([probability for *_, probability in pairs])
    exact = (distance == 0).astype(np.float64)
    return {
        "exact": estimate(exact, lambda r: float(r.mean()), patients=patients, resamples=500).to_dict(),
        "within_one": estimate(
            (np.abs(distance) <= 1).astype(np.float64), lambda r: float(r.mean()), patients=patients, resamples=500
        ).to_dict(),
        "bones_without_a_stage": sum(len(c.film.stages.keys() - c.stages.keys()) for c in measured),
        "reliability": reliability(chance, exact),
    }


def reliability(chance: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Return mean stated probability and share right in ten bins of the stated probability; empty bins are left out."""
    bins = np.clip((chance * 10).astype(int), 0, 9)
    return [
        {
            "stated": round(float(chance[bins == b].mean()), 4),
            "right": round(float(right[bins == b].mean()), 4),
            "n": int((bins == b).sum()),
        }
        for b in range(10)
        if (bins == b).any()
    ]


def report(measured: Sequence[Case]) -> dict[str, Any]:
    """Return everything: each method, the stages, and how the methods agree."""
    spreads = np.array([case.spread_years for case in measured if case.spread_years is not None])
    result: dict[str, Any] = {
        "films": len(measured),
        "patients": len({case.film.patient for case in measured}),
        "methods": {method: figures(measured, method) for method in methods(measured)},
        "agreement": {
            "alarms": sum(case.alarm for case in measured),
            "spread_years_median": round(float(np.median(spreads)), 3) if spreads.size else None,
            "spread_years_95th_percentile": round(float(np.percentile(spreads, 95)), 3) if spreads.size else None,
        },
    }
    staged = stages(measured)
    return result if staged is None else {**result, "stages": staged}


def missing(measured: Sequence[Case]) -> Mapping[str, list[str]]:
    """Return for each reason the films that a method left without an age."""
    reasons: dict[str, list[str]] = {}
    for case in measured:
        for method, answer in case.answers.items():
            if answer.years is None:
                reasons.setdefault(f"{method}: {answer.missing or 'no reason given'}", []).append(case.film.file)
    return reasons


def _years(case: Case, method: str) -> float | None:
    answer = case.answers.get(method)
    return None if answer is None else answer.years


def _inside(case: Case, method: str) -> bool | None:
    answer = case.answers.get(method)
    if answer is None or answer.interval_years is None:
        return None
    low, high = answer.interval_years
    return low <= case.reference_years <= high
