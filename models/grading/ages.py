"""Stages from ages: the training signal that a film's total RUS-CHN score must give its bone age on the curve of its sex.

Real films carry a bone age and no stages. The expected score of every bone is differentiable in its stage probabilities, and
so is the curve; a hospital that has only ages can tune the grader by it.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.grading.network import WIDEST
from models.regions import RUS, Sex
from models.standards import RUS_CHN

SEXES: Final[tuple[Sex, Sex]] = ("F", "M")
_STEP: Final = 2  # score points between the knots of the linear curve


def score_table() -> Tensor:
    """Return the scores of all stages, (2 sexes, 13, `WIDEST`), F first; stages a bone lacks score 0."""
    table = np.zeros((2, len(RUS), WIDEST), np.float32)
    for row, sex in enumerate(SEXES):
        for index, bone in enumerate(RUS):
            scores = RUS_CHN.scores(bone, sex)
            table[row, index, : len(scores)] = scores
    return torch.from_numpy(table)


def curve_table() -> Tensor:
    """Return the bone age in years at every `_STEP` points of total score, (2 sexes, knots).

    Below the lowest and above the highest printed age the curve stays at that age.
    """
    totals = np.arange(0, 1000 + _STEP, _STEP, dtype=np.float64)
    table = np.zeros((2, len(totals)), np.float32)
    for row, sex in enumerate(SEXES):
        for index, total in enumerate(totals):
            age = RUS_CHN.bone_age(float(total), sex)
            table[row, index] = age.years if age.years is not None else (age.limit_years or 0.0)
        table[row] = np.maximum.accumulate(table[row])
    return torch.from_numpy(table)


def expected_age(chances: Tensor, male: Tensor, scores: Tensor, curve: Tensor) -> Tensor:
    """Return the bone age of the expected total score, (films,), differentiable in the chances.

    Parameters
    ----------
    chances
        (films, 13, `WIDEST`) stage probabilities.
    male
        (films,) 0 for girls, 1 for boys.
    scores, curve
        From `score_table` and `curve_table`.
    """
    total = (chances * scores[male]).sum((1, 2)).clamp(0, 1000)
    place = total / _STEP
    below = place.detach().floor().long().clamp(0, curve.shape[1] - 2)
    low, high = curve[male, below], curve[male, below + 1]
    return low + (high - low) * (place - below)


def age_loss(chances: Tensor, male: Tensor, bone_age_years: Tensor, scores: Tensor, curve: Tensor) -> Tensor:
    """Return the smooth absolute error of the expected age in years; labels beyond the curve's ends count as its ends."""
    age = expected_age(chances, male, scores, curve)
    label = torch.minimum(torch.maximum(bone_age_years, curve[male, 0]), curve[male, -1])
    return functional.smooth_l1_loss(age, label, beta=0.5)


def sexes_of(male: Sequence[int] | Tensor) -> list[Sex]:
    """Return F for 0 and M for 1."""
    return [SEXES[int(value)] for value in male]
