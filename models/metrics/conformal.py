"""Intervals with a stated coverage: split conformal prediction by sex and age band.

The half width of a band is a quantile of the absolute errors on calibration films that were not trained on. If the films
served are like them, the interval covers the stated share in each band, whatever the errors' distribution
(Vovk 2012; Papadopoulos et al. 2002). The band is chosen by the predicted age, since the true one is not known when serving.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.regions import Sex

ALL_SHARES: Final = 2.0  # above every share
BANDS_YEARS = (0.0, 4.0, 6.0, 8.0, 10.0, 12.0, 13.0, 14.0, 15.0, 20.0)


@dataclass(frozen=True, slots=True)
class Band:
    """One cell: predictions of `from_years` <= age < `to_years` lie within `half_width_years` of the truth."""

    method: str
    sex: Sex
    from_years: float
    to_years: float
    half_width_years: float
    n: int
    from_share: float = (
        0.0  # of the film's width that the hand spans (`Reading.hand_share`): `from_share` <= share < `to_share`
    )
    to_share: float = ALL_SHARES

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that JSON holds; a band for every share does not name it."""
        whole = (self.from_share, self.to_share) == (0.0, ALL_SHARES)
        return {name: value for name, value in asdict(self).items() if not (whole and name.endswith("_share"))}


@dataclass(frozen=True, slots=True)
class Intervals:
    """The intervals of every method, as kept with the weights."""

    coverage: float
    bands: tuple[Band, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from the plain form."""
        return cls(float(data["coverage"]), tuple(Band(**band) for band in data["bands"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that JSON holds."""
        return {"coverage": self.coverage, "bands": [band.to_dict() for band in self.bands]}

    def interval(
        self, method: str, sex: Sex, bone_age_years: float, share: float | None = None
    ) -> tuple[float, float] | None:
        """Return the interval around a predicted age, not below 0; None where no calibration film was like it."""
        band = self.band(method, sex, bone_age_years, share)
        if band is None:
            return None
        return max(0.0, bone_age_years - band.half_width_years), bone_age_years + band.half_width_years

    def band(self, method: str, sex: Sex, bone_age_years: float, share: float | None = None) -> Band | None:
        """Return the band a predicted age and the hand's share of the film fall into; the share unknown: the widest there is."""
        found = [
            band
            for band in self.bands
            if (band.method, band.sex) == (method, sex)
            and band.from_years <= bone_age_years < band.to_years
            and (share is None or band.from_share <= share < band.to_share)
        ]
        return max(found, key=lambda band: band.half_width_years, default=None)

    def __add__(self, other: "Intervals") -> "Intervals":
        """Join the intervals of several methods; the coverage must be the same."""
        if other.coverage != self.coverage:
            raise ValueError(f"coverage {other.coverage} does not match {self.coverage}")
        return Intervals(self.coverage, self.bands + other.bands)


def half_width(absolute_errors: NDArray[np.float64], coverage: float) -> float:
    """Return the conformal quantile: the k-th smallest error, k = ceil((n + 1) coverage).

    Raises
    ------
    ValueError
        When there are too few errors for the coverage: then no finite interval has it.
    """
    n = len(absolute_errors)
    rank = math.ceil((n + 1) * coverage)
    if rank > n:
        raise ValueError(
            f"{n} errors cannot give {coverage:.0%} coverage; {math.ceil(round(coverage / (1 - coverage), 6))} are needed"
        )
    return float(np.sort(absolute_errors)[rank - 1])


def calibrate(
    method: str,
    predicted_years: Sequence[float],
    reference_years: Sequence[float],
    sexes: Sequence[Sex],
    *,
    coverage: float = 0.9,
    edges_years: Sequence[float] = BANDS_YEARS,
    minimum: int = 40,
) -> Intervals:
    """Build the intervals of one method from calibration films.

    A band with fewer than `minimum` films is joined to the next older one, the last to the one before.
    """
    predicted = np.asarray(predicted_years, dtype=np.float64)
    errors = np.abs(predicted - np.asarray(reference_years, dtype=np.float64))
    bands: list[Band] = []
    both: tuple[Sex, Sex] = ("F", "M")
    for sex in both:
        of_sex = np.array([s == sex for s in sexes])
        edges = _joined([float(e) for e in edges_years], predicted[of_sex], minimum)
        for low, high in itertools.pairwise(edges):
            inside = of_sex & (predicted >= low) & (predicted < high)
            if inside.any():
                count = int(inside.sum())
                bands.append(Band(method, sex, low, high, half_width(errors[inside], coverage), count))
    return Intervals(coverage, tuple(bands))


def measured_coverage(
    intervals: Intervals,
    method: str,
    predicted_years: Sequence[float],
    reference_years: Sequence[float],
    sexes: Sequence[Sex],
) -> NDArray[np.float64]:
    """Return 1 where the interval of a film holds its reference and 0 where not; a film without interval counts as 0."""
    inside = []
    for predicted, reference, sex in zip(predicted_years, reference_years, sexes, strict=True):
        interval = intervals.interval(method, sex, predicted)
        inside.append(interval is not None and interval[0] <= reference <= interval[1])
    return np.array(inside, dtype=np.float64)


def _joined(edges: list[float], predicted: NDArray[np.float64], minimum: int) -> list[float]:
    kept = [edges[0]]
    for high in edges[1:]:
        if np.count_nonzero((predicted >= kept[-1]) & (predicted < high)) >= minimum or high == edges[-1]:
            kept.append(high)
    if len(kept) > 2 and np.count_nonzero((predicted >= kept[-2]) & (predicted < kept[-1])) < minimum:
        del kept[-2]
    return kept
