"""How the bones of one hand go together: the maturity of each bone to expect at a bone age, and how far children scatter.

A total score says how far a hand has come, not which bone has come how far: a grader tuned on ages alone can buy the right
total with a radius too high and fingers too low. The prior here holds every bone near what is usual at the film's bone age, by
the scatter between the bones of one hand that the phantoms are drawn with.
"""

from functools import cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.grading.ages import SEXES
from models.grading.network import COUNTS, WIDEST
from models.phantom import maturity
from models.regions import RUS

AGES_YEARS: Final = np.arange(0.5, 18.51, 0.5)
DRAWS: Final = 40  # hands a sex and age
SLACK: Final = 0.35  # stages: a stage is a step, its middle lies up to half a stage beside the maturity


@cache
def expected() -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each bone's maturity, in stages, each (2 sexes, ages, 13)."""
    rng = np.random.default_rng(20260101)
    mean = np.zeros((2, len(AGES_YEARS), len(RUS)), np.float32)
    spread = np.zeros_like(mean)
    for row, sex in enumerate(SEXES):
        for column, age in enumerate(AGES_YEARS):
            hands = [maturity.draw(rng, float(age), sex).maturity for _ in range(DRAWS)]
            table = np.array([[min(hand[bone], COUNTS[i] - 0.5) for i, bone in enumerate(RUS)] for hand in hands])
            mean[row, column], spread[row, column] = table.mean(0), table.std(0)
    return torch.from_numpy(mean), torch.from_numpy(spread)


def middles() -> Tensor:
    """Return the maturity in the middle of every stage, (13, `WIDEST`); absent is 0.5."""
    last = torch.tensor(COUNTS)[:, None] - 1
    return torch.minimum(torch.arange(WIDEST)[None, :], last) + 0.5


def deviations(chances: Tensor, male: Tensor, bone_age_years: Tensor) -> Tensor:
    """Return how far each bone lies from what is usual at a bone age, in standard deviations, (films, 13), signed.

    Parameters
    ----------
    chances
        (films, 13, `WIDEST`) stage probabilities.
    male, bone_age_years
        (films,) 0 for girls, 1 for boys; years.
    """
    mean, spread = expected()
    place = ((bone_age_years - float(AGES_YEARS[0])) / 0.5).clamp(0, len(AGES_YEARS) - 1.001)
    below = place.floor().long()
    share = (place - below)[:, None]
    usual = mean[male, below] * (1 - share) + mean[male, below + 1] * share
    scatter = spread[male, below] * (1 - share) + spread[male, below + 1] * share
    found = (chances * middles()).sum(-1)
    return (found - usual) / (scatter + SLACK)


def loss(chances: Tensor, male: Tensor, bone_age_years: Tensor) -> Tensor:
    """Return the mean Huber loss of `deviations`: quadratic within one standard deviation, linear beyond."""
    z = deviations(chances, male, bone_age_years)
    return functional.smooth_l1_loss(z, torch.zeros_like(z), beta=1.0)
