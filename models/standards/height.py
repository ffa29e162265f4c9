"""Chinese height reference and predictions of adult height. For research only.

The Tanner equations were fitted in 1975 with the old TW2 RUS bone age; a bone age by TW3, TW3-C or RUS-CHN lies outside
their calibration, and every result of them says so.
"""

from dataclasses import dataclass
from math import erf, sqrt
from typing import Final, Literal

import numpy as np

from models.regions import Sex
from models.standards.greulich_pyle import interpolated
from models.standards.tables import table

Menarche = Literal["before", "after"]
TANNER_WARNING: Final = "fitted in 1975 with the TW2 RUS bone age; other bone ages lie outside its calibration"
GIRLS_FROM_MEMORY: Final = "girls of 6 to 18 years: the reference heights are not confirmed against the printed table"


@dataclass(frozen=True, slots=True)
class HeightPosition:
    """Height among Chinese children (Li Hui et al. 2009, nine cities, survey of 2005)."""

    sds: float
    percentile: float
    median_cm: float
    uncertain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdultHeight:
    """A predicted adult height, or None with the reason."""

    method: str
    adult_height_cm: float | None
    reason: str | None = None
    residual_sd_cm: float | None = None
    notes: tuple[str, ...] = ()


def height_position(height_cm: float, age_years: float, sex: Sex) -> HeightPosition | None:
    """Place a height among Chinese children; None outside 2 to 18 years or beyond three standard deviations.

    Linear between the printed columns and between the printed years; a column that is not known is bridged.
    """
    rows = np.asarray(table("height")["chinese_height_2009"][sex], dtype=np.float64)
    columns = np.asarray(table("height")["chinese_height_2009"]["columns_sd"], dtype=np.float64)
    years = rows[:, 0]
    if not years[0] <= age_years <= years[-1]:
        return None
    below = min(int(np.searchsorted(years, age_years, side="right")) - 1, len(years) - 2)
    share = (age_years - years[below]) / (years[below + 1] - years[below])
    heights = np.array([_bridged(columns, row[1:]) for row in rows[below : below + 2]])
    at_age = (1 - share) * heights[0] + share * heights[1]
    known = ~np.isnan(at_age)
    sds = interpolated(height_cm, at_age[known].tolist(), columns[known].tolist())
    if sds is None:
        return None
    doubts = (GIRLS_FROM_MEMORY,) if sex == "F" and age_years > 5 else ()
    return HeightPosition(sds, 50 * (1 + erf(sds / sqrt(2))), float(at_age[3]), doubts)


def bayley_pinneau(height_cm: float, bone_age_years: float, age_years: float, sex: Sex) -> AdultHeight:
    """Predict adult height from the share of it reached at a Greulich-Pyle bone age (Bayley and Pinneau 1952).

    The table is the average one where bone age and age agree within a year, else the accelerated or the retarded one.
    """
    lead = bone_age_years - age_years
    name = "accelerated" if lead > 1 else "retarded" if lead < -1 else "average"
    method = f"Bayley-Pinneau ({name})"
    months, percents = np.asarray(table("height")["bayley_pinneau"]["tables"][f"{sex} {name}"], dtype=np.float64).T
    percent = interpolated(bone_age_years * 12, months.tolist(), percents.tolist())
    if percent is None:
        reason = (
            f"bone age {bone_age_years:.2f} y is outside the {name} table, {months[0] / 12:g} to {months[-1] / 12:g} y"
        )
        return AdultHeight(method, None, reason)
    return AdultHeight(method, 100 * height_cm / percent)


def tanner_1975(
    height_cm: float, age_years: float, tw2_rus_years: float, sex: Sex, menarche: Menarche | None = None
) -> AdultHeight:
    """Predict adult height by the equations of Tanner et al. 1975, tables V and VI, in bands of half a year of age.

    Girls of 11 to 15 years have two sets of equations, so there `menarche` must be known.
    """
    method = "Tanner 1975"
    tables = table("height")["tanner_whitehouse_1975"]
    name = "boys" if sex == "M" else "girls" if age_years < 11 else "girls_all_15plus"
    if sex == "F" and 11 <= age_years < 15:
        if menarche is None:
            return AdultHeight(method, None, "girls of 11 to 15 years: whether menarche has passed must be known")
        name = "girls_premenarcheal" if menarche == "before" else "girls_postmenarcheal"
    rows: list[list[float]] = tables[name]
    usable = [row for row in rows if row[0] <= age_years]
    # The first band of each sex is four to seven years wide as printed; the last ends half a year after it begins.
    if not usable or age_years >= rows[-1][0] + 0.5:
        return AdultHeight(method, None, f"age {age_years:g} y is outside {rows[0][0]:g} to {rows[-1][0] + 0.5:g} y")
    _, by_height, by_age, by_bone_age, constant, residual_sd, _ = usable[-1]
    predicted = by_height * height_cm + by_age * age_years + by_bone_age * tw2_rus_years + constant
    return AdultHeight(method, predicted, residual_sd_cm=residual_sd, notes=(TANNER_WARNING,))


def _bridged(columns: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", heights: object) -> list[float]:
    """Fill columns that are not known between known ones; NaN where none lies beyond."""
    values = np.asarray(heights, dtype=np.float64)
    known = ~np.isnan(values)
    return list(np.interp(columns, columns[known], values[known], left=np.nan, right=np.nan))
