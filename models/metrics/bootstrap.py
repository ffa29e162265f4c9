"""Intervals of a statistic by resampling patients, and of a share where resampling says nothing."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_Z: Final = 1.959964  # of the normal distribution, 95 % on both sides


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval and the number of patients behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Write it as a results table does."""
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}, n={self.n})"

    def to_dict(self) -> dict[str, float | int]:
        """Return the plain form for a results file."""
        digits = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: round(number, 4) for name, number in digits.items()}, "n": self.n}


def estimate(
    rows: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float],
    *,
    patients: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimate a statistic with its 95 % percentile interval.

    Parameters
    ----------
    rows
        (n, ...) one row a film.
    statistic
        From rows to a number.
    patients
        Whom each row belongs to; the films of one patient are drawn together. Each row is its own patient by default.
    resamples, seed
        Number of resamples and their seed.

    Raises
    ------
    ValueError
        When there are no rows: no number can be stated then.
    """
    if len(rows) == 0:
        raise ValueError("no rows: a statistic of nothing cannot be stated")
    names = list(range(len(rows))) if patients is None else list(patients)
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} patients do not match {len(rows)} rows")
    groups: dict[Hashable, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    members = [np.array(indices) for indices in groups.values()]
    single = np.concatenate(members) if len(members) == len(rows) else None
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = generator.integers(0, len(members), len(members))
        chosen = single[drawn] if single is not None else np.concatenate([members[index] for index in drawn])
        values.append(statistic(rows[chosen]))
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(statistic(rows)), float(low), float(high), len(members))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `n` independent trials (Wilson 1927); it has a width at 0 and 1 too."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * float(np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))) / (1 + _Z**2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(counts: NDArray[np.float64], *, resamples: int = 2000) -> Estimate:
    """Estimate what share of all values passed, with its 95 % interval over patients.

    Films are resampled; where that says nothing, since one value stands for a film, all are alike or there is one film, the
    interval is Wilson's with each film as one trial.

    Parameters
    ----------
    counts
        (n, 2) how many values of a film passed, and how many it has.
    """
    found = estimate(counts, lambda c: float(c[:, 0].sum() / c[:, 1].sum()), resamples=resamples)
    if bool((counts[:, 1] == 1).all()) or found.low == found.high:
        low, high = wilson(found.value, found.n)
        return Estimate(found.value, low, high, found.n)
    return found
