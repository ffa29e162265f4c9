"""See a splint of one finger: beside the bone it is brighter there than beside the same bones of the other fingers.

A splint lies along a finger and adds its own shadow to bone and soft tissue alike, so what is beside the bone becomes as bright as
the other fingers' bones are. A finger that overlaps the next is brighter on one side alone. The network that sees casts (`cast`)
looks at the wrist and does not tell one finger's splint.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from models.reading import Box

Array = NDArray[np.float64]

# Regions of a finger from the palm to the tip; what lies between two of them, and beyond the last, is a part of the finger.
FINGERS: Final = {
    1: ("mc1", "pp1", "dp1"),
    **{ray: (f"pp{ray}", f"mp{ray}", f"dp{ray}") for ray in range(2, 6)},
}
# By how much of the step from soft tissue to bone, as the other fingers show it, both sides of a part are brighter. On 266 real
# films the highest finger has 0.76 (2840), the next 0.24, the highest thumb 0.71; of 1,282 thumbnails none is beyond these limits.
BRIGHTER: Final = {1: 1.0, **dict.fromkeys(range(2, 6), 0.9)}
TOGETHER: Final = 2  # neighbouring parts that must be so
GOES_ON: Final = 0.4  # share of that limit from which a part beside them lies under the same splint
COMPARED: Final = 2  # other fingers at least
TIP: Final = 0.55  # how far the finger goes on beyond its last region, in the distance of its last two
BESIDE: Final = (
    0.33,
    0.36,
    0.39,
)  # where soft tissue is looked at, in sides of the regions' boxes from the bone's axis
ON_BONE: Final = (-0.15, -0.1, 0.0, 0.1, 0.15)
ALONG: Final = np.linspace(0.15, 0.85, 15)
FLAT: Final = 0.05  # least step from soft tissue to bone, in the film's span from the 1st to the 99.5th percentile


def under(pixels: NDArray[np.float32], boxes: Mapping[str, Box], *, dark: bool) -> frozenset[str]:
    """Name the regions that lie under a splint of their finger.

    Parameters
    ----------
    pixels
        The film as received.
    dark
        Whether bone is dark in it.
    """
    step = max(1, max(pixels.shape) // 256)
    low, high = np.percentile(pixels[::step, ::step], (1.0, 99.5))
    least = FLAT * max(float(high - low), 1e-4)
    parts = {ray: _parts(pixels, boxes, names, -1.0 if dark else 1.0) for ray, names in FINGERS.items()}
    found: set[str] = set()
    for ray, own in parts.items():
        others = [part for other, part in parts.items() if other not in (ray, 1) and part is not None]
        if own is None or len(others) < COMPARED:
            continue
        soft, bone = np.median(np.array(others), axis=0).T
        brighter = (own[:, 0] - soft) / np.maximum(bone - soft, least) / BRIGHTER[ray]
        splinted = brighter > 1
        if max(sum(pair) for pair in pairwise(splinted)) >= TOGETHER:
            splinted |= (brighter > GOES_ON) & (np.convolve(splinted, (1, 1, 1), "same") > 0)
            names = (*FINGERS[ray], "")
            found |= {name for part in np.flatnonzero(splinted) for name in names[part : part + 2] if name}
    return frozenset(found)


def _parts(pixels: NDArray[np.float32], boxes: Mapping[str, Box], names: tuple[str, ...], sign: float) -> Array | None:
    """Return how bright soft tissue and bone are in each part of a finger, (3, 2); None where a region is missing."""
    if any(name not in boxes for name in names):
        return None
    stated = np.array([boxes[name] for name in names])
    middles, sides = (stated[:, :2] + stated[:, 2:]) / 2, (stated[:, 2:] - stated[:, :2]).mean(axis=1)
    ends = np.concatenate((middles, middles[-1:] + TIP * (middles[-1:] - middles[-2:-1])))
    wide = np.concatenate((sides, sides[-1:]))
    return np.array([_part(pixels, ends[k], ends[k + 1], (wide[k] + wide[k + 1]) / 2, sign) for k in range(len(names))])


def _part(pixels: NDArray[np.float32], start: Array, end: Array, side: float, sign: float) -> tuple[float, float]:
    """Return the brightness beside the bone, on its darker side, and on it."""
    way = end - start
    across = np.array([-way[1], way[0]]) / max(float(np.hypot(*way)), 1e-6) * side
    middle = start + ALONG[:, None] * way

    places = np.array([*(-place for place in BESIDE), *BESIDE, *ON_BONE])
    x, y = (middle[None] + places[:, None, None] * across).transpose(2, 0, 1)
    seen = sign * map_coordinates(pixels, [y, x], output=np.float64, order=1, mode="nearest")
    left, right, on_bone = np.split(seen, (len(BESIDE), 2 * len(BESIDE)))
    return min(float(np.median(left)), float(np.median(right))), float(np.median(on_bone.max(axis=0)))
