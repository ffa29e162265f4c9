"""Say of which regions the place was found but the bone is not to be seen: covered, taken for a neighbour, or not sure.

A detector that knows hands puts a box also where a bone must lie under a black bar or a burnt-out patch. Whatever is staged
from such a box is made up. Limits were set on 266 real films and 80 phantoms, of which none comes near them but one (3625, a hand
that is hardly made out at all), and on films with regions painted over.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.metrics.overlap import box_iou
from models.reading import Box

COVERED: Final = "covered"
COINCIDES: Final = "coincides"
UNSURE: Final = "unsure"

SURE: Final = 0.5  # score below which a region does not count as found; the least of 265 real films is 0.65
ONE_LEVEL: Final = 0.65  # share of the inner half of a box that one grey level may take; at most 0.53 on real films
LEVEL: Final = 0.002  # half the width of "one grey level", in the film's span from the 1st to the 99.5th percentile
SAME_PLACE: Final = 0.5  # IoU of two boxes; at most 0.29 on real films, but for knuckles
ENOUGH: Final = 32  # pixels a side of the inner half that are looked at: a share, not a picture, is asked for
# Head of a metacarpal and base of its proximal phalanx: their boxes share half of their area on many hands.
_KNUCKLES: Final = frozenset(frozenset((f"mc{ray}", f"pp{ray}")) for ray in range(1, 6))


def hidden(
    pixels: NDArray[np.float32], boxes: Mapping[str, Box], scores: Mapping[str, float], astray: Mapping[str, float]
) -> dict[str, str]:
    """Return the regions that are not to be seen, each with its cause.

    Parameters
    ----------
    pixels
        The film as received.
    astray
        How far each region lies from where the hand's pose puts it: of two in one place the farther one is the wrong one.
    """
    step = max(1, max(pixels.shape) // 256)
    low, high = np.percentile(pixels[::step, ::step], (1.0, 99.5))
    span = max(float(high - low), 1e-4)
    found: dict[str, str] = {}
    for one, other in combinations(boxes, 2):
        if frozenset((one, other)) not in _KNUCKLES and box_iou(boxes[one], boxes[other]) > SAME_PLACE:
            found[max(one, other, key=lambda name: astray[name])] = COINCIDES
    for name, box in boxes.items():
        if scores[name] < SURE:
            found[name] = UNSURE
        if one_level(pixels, box, LEVEL * span) > ONE_LEVEL:
            found[name] = COVERED
    return found


def one_level(pixels: NDArray[np.float32], box: Box, tolerance: float) -> float:
    """Return the largest share of the inner half of a box that lies within `tolerance` of one grey level."""
    x, y, half = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0] + box[3] - box[1]) / 8
    inner = pixels[max(0, round(y - half)) : round(y + half) + 1, max(0, round(x - half)) : round(x + half) + 1]
    if inner.size < 9:
        return 0.0
    step = max(1, min(inner.shape) // ENOUGH)
    levels = np.sort(inner[::step, ::step].ravel())
    reach = np.searchsorted(levels, levels + 2 * tolerance, side="right") - np.arange(len(levels))
    return float(reach.max() / len(levels))
