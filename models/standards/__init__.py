"""Turn maturity stages into scores, scores into bone ages, and bone ages into positions within a reference.

1. `tables` reads the printed tables, kept as data files with their sources and how sure each of them is.
2. `curve` is the monotone curve through a printed table of scores and ages; outside it there is no age.
3. `rus` holds the three standards of the 13 RUS bones: `RUS_CHN`, `TW3_RUS` and `TW3C_RUS`; `harmony` says how bones go together.
4. `weighting` turns stage probabilities into scores: classic, Top2 and TopN.
5. `carpal` scores the seven carpal bones; `greulich_pyle` holds the plates and the Brush deviations;
   `height` the Chinese height reference and the predictions of adult height.

Needs numpy and scipy only.
"""

from models.standards.curve import Age, Curve
from models.standards.greulich_pyle import sds
from models.standards.rus import (
    RUS_CHN,
    STANDARDS,
    TW3_RUS,
    TW3C_RUS,
    MissingBones,
    RusStandard,
    fine_levels,
    labels_of,
    letter_of,
)
from models.standards.weighting import Classic, Top2, TopN, Weighting

__all__ = [
    "RUS_CHN",
    "STANDARDS",
    "TW3C_RUS",
    "TW3_RUS",
    "Age",
    "Classic",
    "Curve",
    "MissingBones",
    "RusStandard",
    "Top2",
    "TopN",
    "Weighting",
    "fine_levels",
    "labels_of",
    "letter_of",
    "sds",
]
