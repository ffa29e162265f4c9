"""Greulich and Pyle's plates, and how far a bone age lies from the chronological age by the Brush Foundation study.

The deviations are centred on the chronological age, as is common practice: the study's mean skeletal ages are not available.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf, sqrt
from typing import Final

import numpy as np

from models.regions import Sex
from models.standards.tables import table

REFERENCE: Final = "Brush Foundation, centred on chronological age"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a bone age lies among children of one age."""

    sds: float
    percentile: float
    sd_months: float

    @property
    def word(self) -> str:
        """Delayed, normal or advanced: the usual limits are two standard deviations."""
        return "delayed" if self.sds < -2 else "advanced" if self.sds > 2 else "normal"


def plates_months(sex: Sex) -> tuple[int, ...]:
    """Ages of the atlas plates: 31 for boys, 27 for girls."""
    return tuple(table("greulich_pyle")["plates_months"][sex])


def nearest_plate_months(bone_age_months: float, sex: Sex) -> int:
    """Return the plate closest to a bone age; the younger of two that are equally close."""
    return min(plates_months(sex), key=lambda plate: (abs(plate - bone_age_months), plate))


def brush_ages_months(sex: Sex) -> list[float]:
    """Return the ages in months at which the deviations are printed."""
    return [float(age) for age, _ in table("greulich_pyle")["brush_sd_months"][sex]]


def brush_sd_months(age_months: float, sex: Sex) -> float | None:
    """Return the standard deviation of skeletal age at an age, linear between the printed ages; None outside them."""
    ages, deviations = np.asarray(table("greulich_pyle")["brush_sd_months"][sex], dtype=np.float64).T
    return interpolated(age_months, ages.tolist(), deviations.tolist())


def position(bone_age_months: float, age_months: float, sex: Sex) -> Position | None:
    """Place a bone age by the Brush deviations; None where the study has no children of that age."""
    sd = brush_sd_months(age_months, sex)
    if sd is None:
        return None
    sds = (bone_age_months - age_months) / sd
    return Position(sds, 50 * (1 + erf(sds / sqrt(2))), sd)


def sds(bone_age_years: float, age_years: float, sex: Sex) -> tuple[float, float, str] | None:
    """Return (SDS, percentile, reference) of a Greulich-Pyle bone age, the form a Reading holds; None without a reference."""
    place = position(bone_age_years * 12, age_years * 12, sex)
    return None if place is None else (place.sds, place.percentile, REFERENCE)


def interpolated(at: float, points: Sequence[float], values: Sequence[float]) -> float | None:
    """Linear interpolation, exact at the printed points; None outside them."""
    if not points[0] <= at <= points[-1]:
        return None
    return float(np.interp(at, points, values))
