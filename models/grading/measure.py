"""Measure stages and bone ages against the truth, and calibrate probabilities on films the network did not learn from."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.grading.losses import stage_of
from models.grading.network import COUNTS, Staged
from models.grading.phantoms import Crops
from models.regions import RUS, Sex
from models.standards import RUS_CHN, RusStandard, TopN, Weighting


@torch.inference_mode()
def run(net: Staged, crops: Tensor, batch: int = 32) -> Tensor:
    """Return the head's outputs of all films; (films, 13, outputs) on the CPU."""
    training = net.training
    net.eval()
    device = next(net.parameters()).device
    outputs = torch.cat([net(crops[i : i + batch].to(device)).float().cpu() for i in range(0, len(crops), batch)])
    net.train(training)
    return outputs.clone()


@torch.no_grad()
def calibrate(net: Staged, outputs: Tensor, maturity: Tensor) -> None:
    """Set each bone's temperature to the one with the lowest log loss (Guo 2017), by a search on a grid of ratios."""
    stage = stage_of(maturity)
    ratios = torch.exp(torch.linspace(-1.2, 1.2, 33))
    losses = []
    device = net.temperature.device
    for ratio in ratios:
        net.temperature.fill_(float(ratio))
        log = net.log_probabilities(outputs.to(device)).cpu()
        losses.append(-log.gather(-1, stage[..., None])[..., 0].clamp_min(-20).mean(0))
    net.temperature.copy_(ratios[torch.stack(losses).argmin(0)])


def ages(
    chances: NDArray[np.floating],
    sexes: Sequence[Sex],
    weighting: Weighting | None = None,
    standard: RusStandard = RUS_CHN,
) -> NDArray[np.float64]:
    """Return each film's bone age by a standard in years, NaN where it states none; chances (films, 13, widest)."""
    rule = TopN() if weighting is None else weighting
    found = np.full(len(chances), np.nan)
    for film, sex in enumerate(sexes):
        hand = {bone: _shares(chances[film, index, : COUNTS[index]]) for index, bone in enumerate(RUS)}
        total = sum(standard.weighted(hand, sex, rule).values())
        years = standard.bone_age(min(total, 1000.0), sex).years
        found[film] = np.nan if years is None else years
    return found


def _shares(chances: NDArray[np.floating]) -> list[float]:
    shares: list[float] = (chances / chances.sum()).tolist()
    return shares


def summary(chances: NDArray[np.floating], films: Crops, weighting: Weighting | None = None) -> dict[str, float]:
    """Return log loss, share of bones graded exactly and within one stage, and the bone age's mean absolute error in years."""
    stage = stage_of(torch.from_numpy(films.maturity)).numpy()
    top = chances.argmax(-1)
    likelihood = np.take_along_axis(chances, stage[..., None], -1)[..., 0]
    sexes: list[Sex] = ["F" if female else "M" for female in films.female]
    estimated = ages(chances, sexes, weighting)
    # Both sides by the standard: a film whose stages have no age (absent or mature) has no error to measure.
    exact = np.eye(chances.shape[-1])[stage]
    true = ages(exact, sexes, weighting)
    both = np.isfinite(estimated) & np.isfinite(true)
    return {
        "log_loss": round(float(-np.log(np.maximum(likelihood, 1e-9)).mean()), 4),
        "exact": round(float((top == stage).mean()), 4),
        "within_one": round(float((np.abs(top - stage) <= 1).mean()), 4),
        "mae_years": round(float(np.abs(estimated - true)[both].mean()), 4) if both.any() else float("nan"),
        "without_age": int((~both).sum()),
    }
