"""Turn the probabilities of a bone's stages into its score (P5: classic, Top2, TopN)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np


class Weighting(Protocol):
    """A rule from stage probabilities and stage scores to one score."""

    def score(self, probabilities: Sequence[float], scores: Sequence[float]) -> float:
        """Return the score of one bone; both sequences hold all its stages, the absent centre first."""
        ...


def _leading_mean(
    probabilities: Sequence[float], scores: Sequence[float], count: int | None, threshold: float
) -> float:
    """Probability-weighted mean score of the `count` likeliest stages, or of as many as bring the sum past `threshold`."""
    chances = np.asarray(probabilities, dtype=np.float64)
    values = np.asarray(scores, dtype=np.float64)
    if chances.shape != values.shape or chances.ndim != 1:
        raise ValueError(f"{chances.shape} probabilities do not match {values.shape} scores")
    if np.any(chances < 0) or not np.isclose(chances.sum(), 1, atol=1e-3):
        raise ValueError(f"probabilities must be at least 0 and sum to 1; their sum is {chances.sum():.4f}")
    order = np.argsort(-chances, kind="stable")
    if count is None:
        past = np.flatnonzero(np.cumsum(chances[order]) > threshold)
        count = int(past[0]) + 1 if past.size else len(order)
    kept = order[:count]
    return float(chances[kept] @ values[kept] / chances[kept].sum())


@dataclass(frozen=True, slots=True)
class Classic:
    """The score of the likeliest stage."""

    def score(self, probabilities: Sequence[float], scores: Sequence[float]) -> float:
        """Return it."""
        return _leading_mean(probabilities, scores, 1, 0)


@dataclass(frozen=True, slots=True)
class Top2:
    """The probability-weighted mean score of the two likeliest stages."""

    def score(self, probabilities: Sequence[float], scores: Sequence[float]) -> float:
        """Return it."""
        return _leading_mean(probabilities, scores, 2, 0)


@dataclass(frozen=True, slots=True)
class TopN:
    """Take stages in order of probability until their sum exceeds `threshold`; their probability-weighted mean score.

    P5 finds the threshold on validation data at 0.60 to 0.62.
    """

    threshold: float = 0.61

    def __post_init__(self) -> None:
        """Refuse a threshold that is no probability."""
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must lie between 0 and 1")

    def score(self, probabilities: Sequence[float], scores: Sequence[float]) -> float:
        """Return it."""
        return _leading_mean(probabilities, scores, None, self.threshold)


CLASSIC: Final = Classic()
