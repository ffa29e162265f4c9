"""Chronological ages for films that have none, drawn, to show what giving the age to a method does (P2 gives it).

The bone age of a healthy child scatters about the chronological age by the Brush deviations. Drawing the age from the bone age by
the same deviations gives pairs as a healthy population has them; nothing else of the child is in them.
"""

import numpy as np
from numpy.typing import NDArray

from models.metrics.bootstrap import Estimate, estimate
from models.regions import Sex
from models.standards import greulich_pyle as brush

Array = NDArray[np.float64]


def drawn(bone_age_years: Array, sexes: list[Sex], seed: int) -> Array:
    """Return a chronological age in years for each film, at least 0; beyond the printed ages the nearest deviation holds."""
    rng = np.random.default_rng((seed, 2018))
    ages = []
    for age, sex in zip(bone_age_years.tolist(), sexes, strict=True):
        printed = brush.brush_ages_months(sex)
        sd = brush.brush_sd_months(min(max(12 * age, printed[0]), printed[-1]), sex) or 0.0
        ages.append(max(0.0, age + rng.normal(0, sd / 12)))
    return np.array(ages)


def pull(found_years: Array, bone_age_years: Array, chronological_age_years: Array, patients: list[str]) -> Estimate:
    """Return by which share of a child's deviation the estimate moves toward the chronological age: 0 not at all, 1 all the way.

    The slope through the origin of (estimate - bone age) over (chronological age - bone age).
    """
    rows = np.stack((found_years - bone_age_years, chronological_age_years - bone_age_years), 1)
    rows = rows - rows.mean(0)
    return estimate(rows, lambda r: float((r[:, 0] * r[:, 1]).sum() / (r[:, 1] ** 2).sum()), patients=patients)
