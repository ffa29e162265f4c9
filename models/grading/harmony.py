r"""The prior that the bones of a hand agree: what keeps a grader tuned on ages alone from buying the right total with wrong bones.

A total score says how far a hand has come, not which bone has come how far. The prior holds every bone near what is usual at
the film's bone age (`models.standards.harmony`). Its table is drawn anew by

    python -m models.grading.harmony --out models/standards/data/harmony.json
"""

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import refusal
from models.grading.ages import SEXES
from models.grading.network import COUNTS, WIDEST
from models.phantom import maturity
from models.regions import RUS
from models.standards.harmony import SLACK, usual

AGES_YEARS: Final = np.arange(0.5, 18.51, 0.5)
SEED: Final = 20260101


@cache
def expected() -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each bone's maturity, in stages, each (2 sexes, ages, 13)."""
    tables = [usual(sex) for sex in SEXES]
    mean, spread = (np.stack([found[place] for found in tables]).astype(np.float32) for place in (1, 2))
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
    centre = mean[male, below] * (1 - share) + mean[male, below + 1] * share
    scatter = spread[male, below] * (1 - share) + spread[male, below + 1] * share
    found = (chances * middles()).sum(-1)
    return (found - centre) / (scatter + SLACK)


def loss(chances: Tensor, male: Tensor, bone_age_years: Tensor) -> Tensor:
    """Return the mean Huber loss of `deviations`: quadratic within one standard deviation, linear beyond."""
    z = deviations(chances, male, bone_age_years)
    return functional.smooth_l1_loss(z, torch.zeros_like(z), beta=1.0)


def main() -> None:
    """Draw the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hands", type=int, default=100, help="hands drawn for each sex and age")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    mean: dict[str, dict[str, list[float]]] = {}
    spread: dict[str, dict[str, list[float]]] = {}
    for sex in SEXES:
        rows = []
        for age in AGES_YEARS:
            hands = [maturity.draw(rng, float(age), sex).maturity for _ in range(options.hands)]
            rows.append([[min(hand[bone], COUNTS[i] - 0.5) for i, bone in enumerate(RUS)] for hand in hands])
        drawn = np.array(rows)  # (ages, hands, 13)
        mean[sex] = {bone: np.round(drawn.mean(1)[:, i], 3).tolist() for i, bone in enumerate(RUS)}
        spread[sex] = {bone: np.round(drawn.std(1)[:, i], 3).tolist() for i, bone in enumerate(RUS)}
    content = {
        "title": "Maturity of each RUS bone, in RUS-CHN stages, to expect at a RUS-CHN bone age",
        "source": f"drawn: {options.hands} hands of models.phantom.maturity a sex and age, seed {SEED}",
        "confidence": "not measured on children: courses by Garn 1967 and the Greulich-Pyle plates, scatter by design",
        "uncertain": [],
        "ages_years": AGES_YEARS.tolist(),
        "mean": mean,
        "sd": spread,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    refusal.command(main)
