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
GRAIN: Final = "grain"
COINCIDES: Final = "coincides"
UNSURE: Final = "unsure"
UNDER_CAST: Final = "cast"

SURE: Final = 0.5  # score below which a region does not count as found; the least of 265 real films is 0.65
ONE_LEVEL: Final = 0.65  # share of the inner half of a box that one grey level may take; at most 0.53 on real films
LEVEL: Final = 0.002  # half the width of "one grey level", in the film's span from the 1st to the 99.5th percentile
SAME_PLACE: Final = 0.5  # IoU of two boxes; at most 0.29 on real films, but for knuckles
# Unevenness of a region over the median of the film's regions, below which nothing but grain is there. Of 5,807 regions of 266 real
# films one is below it (1905, mc3: 0.22), the next has 0.34; of 228 regions painted over with grain of the film's own strength, with
# a piece of its background or with a blur of themselves 95, 98 and 95 % are.
GRAINY: Final = 0.25
CELLS: Final = (
    8  # a side, into which the inner half is averaged before it is asked how uneven it is: grain averages out
)
COMPARED: Final = 8  # regions at least, for a median
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
    found |= {name: UNSURE for name in boxes if scores[name] < SURE}
    found |= dict.fromkeys(_grain_alone(pixels, boxes), GRAIN)
    found |= {name: COVERED for name, box in boxes.items() if one_level(pixels, box, LEVEL * span) > ONE_LEVEL}
    return found


def _grain_alone(pixels: NDArray[np.float32], boxes: Mapping[str, Box]) -> list[str]:
    """Return the regions whose inner half is far smoother, grain apart, than the regions of this film are."""
    measured = {name: unevenness(pixels, box) for name, box in boxes.items()}
    uneven = {name: value for name, value in measured.items() if value is not None}
    if len(uneven) < COMPARED:
        return []
    limit = GRAINY * float(np.median(list(uneven.values())))
    return [name for name, value in uneven.items() if value < limit]


def unevenness(pixels: NDArray[np.float32], box: Box) -> float | None:
    """Return the standard deviation of the averaged inner half of a box about a plane; None where it has too few pixels."""
    inner = _inner(pixels, box)
    rows, columns = (side // CELLS for side in inner.shape)
    if min(rows, columns) < 2:
        return None
    means = inner[: rows * CELLS, : columns * CELLS].reshape(CELLS, rows, CELLS, columns).mean(axis=(1, 3))
    means = means - means.mean()
    slope = np.linspace(-1, 1, CELLS)
    steep = CELLS * float(slope @ slope)
    means = means - (means @ slope).sum() / steep * slope - ((means.T @ slope).sum() / steep * slope)[:, None]
    return float(means.std())


def one_level(pixels: NDArray[np.float32], box: Box, tolerance: float) -> float:
    """Return the largest share of the inner half of a box that lies within `tolerance` of one grey level."""
    inner = _inner(pixels, box)
    if inner.size < 9:
        return 0.0
    step = max(1, min(inner.shape) // ENOUGH)
    levels = np.sort(inner[::step, ::step].ravel())
    reach = np.searchsorted(levels, levels + 2 * tolerance, side="right") - np.arange(len(levels))
    return float(reach.max() / len(levels))


def _inner(pixels: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    """Return the inner half of a box, as far as it lies on the film."""
    x, y, half = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0] + box[3] - box[1]) / 8
    return pixels[
        max(0, round(y - half)) : max(0, round(y + half) + 1), max(0, round(x - half)) : max(0, round(x + half) + 1)
    ]
