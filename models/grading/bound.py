"""What stage accuracy can be reached: a stage cuts a maturity that is continuous, so next to a border every reader errs.

A phantom's maturity is known. Reading it with a normal error of a given size and cutting the reading at the stages says how many
stages a reader of that precision gets right, and how far the bone age then errs.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.grading import measure
from models.grading.ages import sexes_of
from models.grading.losses import soft_labels, stage_of
from models.grading.phantoms import Crops
from models.standards import Classic, TopN

ERRORS_STAGES: Final = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


def reachable(
    films: Crops, threshold: float, errors_stages: Sequence[float] = ERRORS_STAGES, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Return a row for each precision: the share of exact stages, of those within one, and the RUS-CHN bone age's error in years.

    Parameters
    ----------
    films
        Phantoms; their pixels are not looked at.
    threshold
        Of TopN, by which the probabilities of the reading give the age.
    errors_stages
        Standard deviations of the error of one bone, in stages; the bones of a hand err independently.
    """
    rng = np.random.default_rng(seed)
    stage = stage_of(torch.from_numpy(films.maturity)).numpy()
    sexes = sexes_of((~films.female).astype(int).tolist())
    true = measure.ages(np.eye(soft_labels(torch.zeros(1, 13), 1.0).shape[-1])[stage], sexes, Classic())
    rows = []
    for error in errors_stages:
        read = torch.from_numpy(films.maturity + rng.normal(0, error, films.maturity.shape).astype(np.float32))
        chances: NDArray[np.float64] = soft_labels(read, error).double().numpy()
        top = stage_of(read).numpy()
        off = np.abs(measure.ages(chances, sexes, TopN(threshold)) - true)
        rows.append(
            {
                "error_stages": error,
                "exact": round(float((top == stage).mean()), 4),
                "within_one": round(float((np.abs(top - stage) <= 1).mean()), 4),
                "mae_years": round(float(np.nanmean(off)), 4),
            }
        )
    return rows
