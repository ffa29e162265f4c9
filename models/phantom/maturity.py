"""Draw how far each ossification centre has come, so that the whole agrees with a bone age.

Maturity is continuous. Its integer part is the RUS-CHN fine stage (0 absent, 1 first visible ...), its fraction says how
far the bone has come towards the next one. Every bone follows its own typical course over the years; one film shifts all
courses by a common number of years, found by bisection, until the RUS-CHN total of the stages meets the target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.regions import RUS, Sex
from models.standards.rus import RUS_CHN, fine_levels

# Age (girls, boys) in years at which a bone reaches a level. Appearance: Garn 1967 medians; half width, full width, capping
# and fusion: notes on the Greulich-Pyle plates; levels between them are interpolated by eye. They only set the order in
# which bones mature: the shift below makes the total agree with the standard.
_Course = tuple[tuple[int, float, float], ...]
_PROXIMAL: Final[_Course] = (
    (3, 2.0, 2.7), (4, 4.5, 6.2), (5, 7.0, 9.8), (6, 8.8, 11.8), (7, 9.8, 12.6), (8, 11.0, 13.5), (9, 11.8, 14.2),
    (10, 13.2, 15.3), (11, 13.8, 16.0), (12, 14.5, 16.8), (13, 16.0, 18.0),
)  # fmt: skip
_MIDDLE: Final[_Course] = (
    (3, 3.0, 3.6), (4, 5.5, 7.2), (5, 7.5, 10.0), (6, 8.8, 12.0), (7, 10.0, 12.8), (8, 11.0, 13.8), (9, 11.9, 14.5),
    (10, 13.4, 15.6), (11, 14.0, 16.2), (12, 15.0, 17.0), (13, 16.3, 18.2),
)  # fmt: skip
_DISTAL: Final[_Course] = (
    (3, 2.9, 3.9), (4, 5.0, 8.0), (5, 8.0, 11.0), (6, 9.5, 12.3), (7, 11.0, 13.7), (8, 11.7, 14.2), (9, 12.9, 15.0),
    (10, 13.2, 15.3), (11, 13.5, 15.6), (12, 15.0, 17.0),
)  # fmt: skip
_METACARPAL: Final[_Course] = (
    (3, 2.6, 3.5), (4, 5.0, 7.0), (5, 7.5, 10.0), (6, 9.3, 12.0), (7, 11.0, 13.2), (8, 13.9, 15.9), (9, 14.4, 16.3),
    (10, 15.0, 17.0), (11, 16.5, 18.2),
)  # fmt: skip
_FIRST_METACARPAL: Final[_Course] = (
    (3, 3.2, 5.0), (4, 7.0, 10.0), (5, 9.0, 11.8), (6, 10.2, 12.8), (7, 11.5, 14.0), (8, 12.4, 14.5), (9, 13.4, 15.2),
    (10, 13.7, 15.4), (11, 14.0, 15.7), (12, 15.5, 17.0),
)  # fmt: skip
_RADIUS: Final[_Course] = (
    (2, 1.2, 1.6), (3, 2.3, 3.0), (4, 4.6, 6.0), (5, 7.5, 9.5), (6, 8.8, 11.2), (7, 10.2, 12.5), (8, 11.6, 14.0),
    (9, 12.4, 15.0), (10, 14.9, 16.9), (11, 15.3, 17.2), (12, 15.7, 17.5), (13, 16.2, 17.9), (14, 16.8, 18.4),
    (15, 18.0, 20.0),
)  # fmt: skip
_ULNA: Final[_Course] = (
    (2, 6.0, 7.7), (3, 6.9, 8.7), (4, 8.0, 10.0), (5, 9.5, 11.7), (6, 10.5, 12.8), (7, 11.8, 14.3), (8, 14.6, 16.5),
    (9, 15.0, 16.8), (10, 15.4, 17.1), (11, 15.8, 17.4), (12, 16.2, 17.8), (13, 17.5, 19.0),
)  # fmt: skip
_COURSE: Final = {"pp": _PROXIMAL, "mp": _MIDDLE, "dp": _DISTAL, "mc": _METACARPAL}
# Median age (girls, boys) at which the centre appears: Garn, Rohmann and Silverman 1967.
_APPEARS: Final = {
    "radius": (0.85, 1.1), "ulna": (5.4, 7.1), "mc1": (1.6, 2.6), "mc2": (1.1, 1.6), "mc3": (1.1, 1.8),
    "mc4": (1.25, 1.9), "mc5": (1.35, 2.2), "pp1": (1.7, 3.0), "pp2": (0.85, 1.35), "pp3": (0.85, 1.35),
    "pp4": (0.9, 1.5), "pp5": (1.2, 1.8), "mp2": (1.3, 2.2), "mp3": (1.25, 2.0), "mp4": (1.25, 2.0), "mp5": (1.9, 3.4),
    "dp1": (1.0, 1.5), "dp2": (2.5, 3.2), "dp3": (1.5, 2.4), "dp4": (1.5, 2.4), "dp5": (2.0, 3.3),
}  # fmt: skip
BONES: Final = tuple(_APPEARS)
# Bones the standard does not score mature like their scored neighbour and use its labels.
SCORED_NEIGHBOUR: Final = {
    "mc2": "mc3", "mc4": "mc3", "pp2": "pp3", "pp4": "pp3", "mp2": "mp3", "mp4": "mp3", "dp2": "dp3", "dp4": "dp3",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Maturities:
    """The maturity of every centre of one hand and what the standard makes of it."""

    maturity: dict[str, float]
    stages: dict[str, str]  # RUS-CHN label of each of the 13 RUS bones, "0" where the centre is absent
    total: int
    bone_age_years: float


def levels(bone: str) -> tuple[str, ...]:
    """Return the stage labels of any of the 21 bones, "0" (absent) first: maturity m lies in stage `levels[int(m)]`."""
    return fine_levels(SCORED_NEIGHBOUR.get(bone, bone))


def course(bone: str, sex: Sex) -> tuple[np.ndarray, np.ndarray]:
    """Return ages in years and the maturities reached at them, both rising."""
    knots: _Course
    if bone == "radius":
        knots = _RADIUS
    elif bone == "ulna":
        knots = _ULNA
    elif bone == "mc1":
        knots = _FIRST_METACARPAL
    else:
        knots = _COURSE[bone[:2]]
    column = 0 if sex == "F" else 1
    appears = _APPEARS[bone][column]
    ages, maturities = [appears - 1.0, appears], [0.0, 1.0]
    delay = appears - _APPEARS[f"{bone[:2]}3"][column] if bone[:2] in ("pp", "mp", "dp") else 0.0
    if knots[0][0] > 2:
        ages.append(appears + 0.35 * (knots[0][1 + column] + 0.5 * delay - appears))
        maturities.append(2.0)
    for level, *age in knots:
        # A ray that starts later catches up by the middle of childhood.
        ages.append(max(age[column] + delay * max(0.0, 0.6 - 0.1 * (level - 3)), ages[-1] + 0.05))
        maturities.append(float(level))
    return np.array(ages), np.array(maturities)


def stage_of(bone: str, maturity: float) -> str:
    """Return the RUS-CHN label of a continuous maturity."""
    labels = levels(bone)
    return labels[min(max(int(maturity), 0), len(labels) - 1)]


def draw(rng: np.random.Generator, age_years: float, sex: Sex, scatter_years: float | None = None) -> Maturities:
    """Draw the maturities of all 21 centres for a bone age.

    Parameters
    ----------
    age_years
        The bone age aimed at. The bone age of the result follows from its stages and differs slightly: stages are discrete.
    scatter_years
        Standard deviation between the bones of one hand; None draws it as found in children, wider at later ages.
    """
    sigma = min(0.10 + 0.045 * age_years, 0.6) if scatter_years is None else scatter_years
    rows: dict[str, float] = {"ra": 0.0, "ul": 0.0}
    rows |= {row: float(rng.normal(0.0, 0.6 * sigma)) for row in ("mc", "pp", "mp", "dp")}
    offsets = {bone: rows[bone[:2]] + float(rng.normal(0.0, 0.8 * sigma)) for bone in BONES}
    low_age, high_age = RUS_CHN.age_range(sex)
    target = RUS_CHN.score_of_age(min(max(age_years, low_age), high_age), sex)
    scores = {bone: RUS_CHN.scores(bone, sex) for bone in RUS}
    courses = {bone: course(bone, sex) for bone in BONES}

    def mature(shift: float, bones: tuple[str, ...]) -> dict[str, float]:
        return {bone: float(np.interp(age_years + shift + offsets[bone], *courses[bone])) for bone in bones}

    def total_of(maturity: dict[str, float]) -> int:
        return sum(scores[bone][min(int(maturity[bone]), len(scores[bone]) - 1)] for bone in RUS)

    # The total rises in steps as bones change their stage; `low` stays below the target, `high` reaches it.
    first, last = -age_years - 3.0, 24.0 - age_years
    low, high = _step(lambda shift: total_of(mature(shift, RUS)) >= target, first, last)
    if abs(total_of(mature(low, RUS)) - target) < abs(total_of(mature(high, RUS)) - target):
        total = total_of(mature(low, RUS))
        left, right = _step(lambda shift: total_of(mature(shift, RUS)) >= total, first, low)[1], low
    else:
        total = total_of(mature(high, RUS))
        left, right = high, _step(lambda shift: total_of(mature(shift, RUS)) > total, high, last)[0]
    # Anywhere between two steps the total is the same; at a step itself some bone would lie exactly between two stages.
    left, right = max(left, right - 3.0), min(right, left + 3.0)
    shift = left + (right - left) * float(rng.uniform(0.15, 0.85))
    maturity = mature(shift, BONES)
    return given(maturity, sex)


def _step(reached: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Narrow down where a rising condition becomes true: the last place before and the first after."""
    for _ in range(18):
        middle = 0.5 * (low + high)
        if reached(middle):
            high = middle
        else:
            low = middle
    return low, high


def given(maturity: dict[str, float], sex: Sex) -> Maturities:
    """Return the maturities stated by the caller, and what the standard makes of them.

    Raises
    ------
    ValueError
        When a bone is missing or unknown.
    """
    if set(maturity) != set(BONES):
        raise ValueError(f"maturities name {len(maturity)} bones; the 21 bones {', '.join(BONES)} are needed")
    stages = {bone: stage_of(bone, maturity[bone]) for bone in RUS}
    total = RUS_CHN.total(stages, sex)
    age = RUS_CHN.bone_age(total, sex).years
    if age is None:
        # The curve states no age for a hand without centres or for a mature one: its ends stand for them.
        age = RUS_CHN.age_range(sex)[0 if total < 500 else 1]
    return Maturities(dict(maturity), stages, total, age)
