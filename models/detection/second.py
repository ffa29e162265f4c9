"""Look for a second hand: the first is taken out of the view of the film, and what is left is looked at again.

The network says where *a* hand lies, and a film of two has two answers; whichever it gives, the other hand is what remains.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from models import transforms
from models.detection.anatomy import Pose, Template
from models.detection.conventions import CHANNEL
from models.regions import RADIUS, ULNA, Laterality

PAD: Final = 0.10  # of the hand's length, around its points: what of it is taken out beside the points' hull
FOREARM: Final = 0.35  # of the canonical view: how far below radius and ulna the forearm is taken out with the hand
WIDER: Final = (
    0.06  # of the canonical view, by which the forearm reaches past the middles of radius and ulna on each side
)
APART: Final = 0.5  # share of a second hand's regions that must lie outside of what was taken out with the first

ALIKE: Final = (
    2.5  # how many times larger one hand may be than the other: lead letters were seen as hands a tenth as large
)


@dataclass(frozen=True, slots=True)
class Other:
    """The hand that was not read."""

    laterality: Laterality
    lies: str  # "above", "below" or "beside" the one that was read


def taken(
    template: Template, pose: Pose, points: NDArray[np.float64], shape: tuple[int, ...], block: float
) -> NDArray[np.bool_]:
    """Return which pixels of the shrunk film, `shape` (rows, columns), hold a hand and its forearm.

    Parameters
    ----------
    pose, points
        How the hand lies on the film as it came, and (n, 2) points of it that were seen there.
    block
        Side of a shrunk pixel in pixels of the film as it came.
    """
    radius, ulna = template.points[CHANNEL[RADIUS]], template.points[CHANNEL[ULNA]]
    forearm = np.array([np.add(radius, (WIDER, FOREARM)), np.add(ulna, (-WIDER, FOREARM))])
    known = transforms.apply(pose.matrix, np.vstack([template.points, forearm]))
    hull = ConvexHull((np.vstack([known, points]) - (block - 1) / 2) / block)
    reach = PAD * pose.upright.scale * template.hand_length / block
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    inside = np.ones(shape, np.bool_)
    for across, down, offset in hull.equations:  # outward normals of length 1
        inside &= across * x + down * y + offset <= reach
    return inside


def lies(first: Pose, other: Pose) -> str:
    """Say where the middle of another hand lies, seen from the first."""
    middle = np.array([[0.5, 0.5]])
    across, down = (transforms.apply(other.matrix, middle) - transforms.apply(first.matrix, middle))[0]
    if abs(down) <= abs(across):
        return "beside"
    return "below" if down > 0 else "above"
