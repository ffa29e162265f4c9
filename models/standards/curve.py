"""The monotone curve through a printed table of ages and scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

Qualifier = Literal["mature", "below range"]


@dataclass(frozen=True, slots=True)
class Age:
    """A bone age, or why the standard states none.

    `limit_years` is the end of the range that was left: "mature" means at least that age, "below range" less than it.
    `cross_check_years` is the same score read from the standard's published polynomial, where it has one.
    """

    years: float | None
    qualifier: Qualifier | None = None
    limit_years: float | None = None
    uncertain: tuple[str, ...] = ()
    cross_check_years: float | None = None

    @property
    def reason(self) -> str | None:
        """The text for a report where there is no age."""
        if self.qualifier == "mature":
            return f"mature: at least {self.limit_years:g} years; the standard ends there"
        if self.qualifier == "below range":
            return f"below the range of the standard: less than {self.limit_years:g} year{'' if self.limit_years == 1 else 's'}"
        return None


class Curve:
    """Monotone PCHIP interpolation, exact at every printed pair (Fritsch and Carlson 1980); never an extrapolation.

    Parameters
    ----------
    pairs
        (age in years, score), both strictly increasing. The last score is maturity.

    Raises
    ------
    ValueError
        When the pairs are not strictly increasing.
    """

    def __init__(self, pairs: Sequence[Sequence[float]]) -> None:
        ages, scores = np.asarray(pairs, dtype=np.float64).T
        if len(ages) < 2 or np.any(np.diff(ages) <= 0) or np.any(np.diff(scores) <= 0):
            raise ValueError("a curve needs at least two pairs whose ages and scores both increase")
        self.ages: tuple[float, ...] = tuple(ages.tolist())
        self.scores: tuple[float, ...] = tuple(scores.tolist())

    @cached_property
    def _age(self) -> "PchipInterpolator":
        # Imported when an age is first read from a score: a process that only shows ages (the delivery) is spared 40 MB.
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(self.scores, self.ages, extrapolate=False)

    def age(self, score: float) -> Age:
        """Read the age at a score.

        A score of 0 says only that no centre has appeared, so it is below the range even where the table starts at birth.
        """
        if not np.isfinite(score) or score < 0:
            raise ValueError(f"score is {score}; it must be a number of at least 0")
        if score >= self.scores[-1]:
            return Age(None, "mature", self.ages[-1])
        if score <= 0 or score < self.scores[0]:
            first = self.ages[1] if self.scores[0] <= 0 else self.ages[0]
            return Age(None, "below range", first)
        return Age(float(self._age(score)))

    def score(self, age_years: float) -> float:
        """Return the score that is read as this age.

        Raises
        ------
        ValueError
            When the age lies outside the printed ages.
        """
        if not self.ages[0] <= age_years <= self.ages[-1]:
            raise ValueError(f"age is {age_years} years; the table covers {self.ages[0]:g} to {self.ages[-1]:g}")
        # The inverse of the age curve itself: a second spline through the swapped pairs differs from it between knots.
        low, high = self.scores[0], self.scores[-1]
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if float(self._age(middle)) < age_years else (low, middle)
        return (low + high) / 2
