"""How the bones of one hand go together: the maturity of each RUS bone to expect at a RUS-CHN bone age, and its scatter.

A total score says how far a hand has come, not which bone has come how far. Stages that no hand shows together mean a film unlike
those learnt from, a box on the wrong bone, or a grader that guesses; the distance from what is usual is stated as `discord`.
The table is drawn, not measured on children: its courses and their scatter are those of the phantoms.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.regions import RUS, Sex
from models.standards.rus import fine_levels
from models.standards.tables import table

SLACK: Final = 0.35  # stages: a stage is a step, its middle lies up to half a stage beside the maturity


@cache
def usual(sex: Sex) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return ages in years, (n,), and mean and standard deviation of each bone's maturity in stages, each (n, 13)."""
    values = table("harmony")
    mean = np.array([values["mean"][sex][bone] for bone in RUS]).T
    spread = np.array([values["sd"][sex][bone] for bone in RUS]).T
    return np.array(values["ages_years"]), mean, spread


def deviations(probabilities: Mapping[str, Sequence[float]], bone_age_years: float, sex: Sex) -> dict[str, float]:
    """Return how far each bone given lies from what is usual at a bone age, in standard deviations, signed."""
    ages, mean, spread = usual(sex)
    found = {}
    for index, bone in enumerate(RUS):
        if bone not in probabilities:
            continue
        chances = np.asarray(probabilities[bone], np.float64)
        middle = float(chances @ (np.arange(len(fine_levels(bone))) + 0.5) / chances.sum())
        expected = float(np.interp(bone_age_years, ages, mean[:, index]))
        found[bone] = (middle - expected) / (float(np.interp(bone_age_years, ages, spread[:, index])) + SLACK)
    return found


def discord(probabilities: Mapping[str, Sequence[float]], bone_age_years: float, sex: Sex) -> float | None:
    """Return the root mean square of `deviations`; None without a bone. About 1 is usual for a hand."""
    found = deviations(probabilities, bone_age_years, sex)
    return float(np.sqrt(np.mean(np.square(list(found.values()))))) if found else None
