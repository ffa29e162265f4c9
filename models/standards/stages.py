"""From the probabilities of a bone's stages to the record of its stage."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.reading import Stage
from models.standards.rus import fine_levels, letter_of

STANDARD: Final = "RUS-CHN"  # whose labels a Stage carries


def named_stage(bone: str, chances: NDArray[np.float64]) -> Stage:
    """Return the stage record of one bone from its probabilities, (at least its number of stages,)."""
    labels = fine_levels(bone)
    kept = chances[: len(labels)] / chances[: len(labels)].sum()
    first, second = np.argsort(-kept, kind="stable")[:2]
    return Stage(
        standard=STANDARD,
        label=labels[first],
        letter=letter_of(bone, labels[first]),
        probability=round(float(kept[first]), 4),
        runner_up=labels[second],
        runner_up_probability=round(float(kept[second]), 4),
        probabilities=tuple(round(float(p), 5) for p in kept),
    )
