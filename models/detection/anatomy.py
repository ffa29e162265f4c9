"""Know how a hand is put together: the mean shape, the pose of a found hand, and which findings contradict it."""

import json
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from models import transforms
from models.detection.conventions import CHANNEL, CHANNELS
from models.regions import CARPUS, RADIUS, ULNA, Laterality
from models.transforms import Matrix, Similarity

# How far from where a reader set it a point may lie and count as found: per cent of the hand's length (`Template.hand_length`).
LIMIT_PERCENT: Final = 2.5
_ROWS_OF_FINGERS: Final = {
    "mc": (2, 3, 4, 5),
    "pp": (1, 2, 3, 4, 5),
    "mp": (2, 3, 4, 5),
    "dp": (1, 2, 3, 4, 5),
}
# A point farther from its place than this many of its own standard deviations does not take part in the fit.
_OUTLIER: Final = 4.0
# Hands themselves differ in breadth by about a tenth (standard deviation of the logarithm 0.095 on annotated films).
_BUILD: Final = 0.13
_SQUASHES: Final = np.linspace(-0.45, 0.45, 19)


@dataclass(frozen=True, slots=True)
class Template:
    """The mean left hand, upright, thumb to the right, as fractions of the canonical view.

    Parameters
    ----------
    points
        (89, 2) x y.
    spread
        (89,) standard deviation of each point about it after a similarity fit.
    """

    points: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def load(cls) -> Self:
        """Read the template that ships with the code."""
        data = json.loads(files("models.detection").joinpath("template.json").read_text(encoding="utf-8"))
        return cls(
            np.array([data["points"][name] for name in CHANNELS]), np.array([data["spread"][name] for name in CHANNELS])
        )

    @property
    def hand_length(self) -> float:
        """Tip of the middle finger to wrist, in the unit of the points."""
        return float(np.hypot(*(self.points[CHANNEL["tip3"]] - self.points[CHANNEL["wrist"]])))


@dataclass(frozen=True, slots=True)
class Pose:
    """How a hand lies on a film.

    Parameters
    ----------
    upright
        Maps fractions of the canonical view to the plane of the hand; mirrored for a right hand.
    squash
        Columns of that plane per column of the film: 1 for a film whose pixels are square, and for any film that is not
        plainly squashed, since hands differ in breadth.
    misfit
        Root mean square distance of the points from the template, in standard deviations; about 1 for a hand.
    fitting
        Share of the points that lie where a hand has them.
    """

    upright: Similarity
    squash: float
    misfit: float
    fitting: float

    @property
    def matrix(self) -> Matrix:
        """The map from fractions of the canonical view to the film."""
        matrix: Matrix = self.upright.matrix * np.array([[1 / self.squash], [1.0]])
        return matrix

    def agrees_with(self, other: "Pose") -> bool:
        """Whether two poses differ by less than what the network was trained to see past."""
        turn = abs(float(np.angle(np.exp(1j * (self.upright.radians - other.upright.radians)))))
        growth = abs(np.log(self.upright.scale / other.upright.scale))
        stretch = abs(np.log(self.squash / other.squash))
        return self.upright.mirrored == other.upright.mirrored and turn < 0.15 and max(growth, stretch) < 0.15

    @property
    def laterality(self) -> Laterality:
        """The side, by the thumb: palm or back on the detector are not told apart (PA is the rule)."""
        return "R" if self.upright.mirrored else "L"


def pose(template: Template, points: NDArray[np.float64], usable: NDArray[np.bool_]) -> Pose | None:
    """Fit the template to the (89, 2) points that are usable; None where fewer than six are, or they are no hand.

    A film that lost its aspect ratio (a thumbnail, a careless export) is recognised by a hand too broad or too slender, and
    fitted as it was before.
    """
    found = _fit(template, points, usable, 1.0)
    if found is None:
        return None
    squash = _squash(template, points, usable & (_deviation(template, points, found.upright) <= _OUTLIER))
    if abs(np.log(squash)) <= _BUILD:
        return found
    return _fit(template, points, usable, squash) or found


def _fit(template: Template, points: NDArray[np.float64], usable: NDArray[np.bool_], squash: float) -> Pose | None:
    """Fit a similarity; points that stand apart are left out step by step, so that a wrong finger does not turn the hand."""
    if usable.sum() < 6:
        return None
    plane = points * np.array([squash, 1.0])
    spread = np.maximum(template.spread, 0.01)
    chosen, fit, deviation = usable, None, np.zeros(len(points))
    for _ in range(5):
        try:
            fit = Similarity.fit(template.points[chosen], plane[chosen], 1 / spread[chosen] ** 2)
        except ValueError:  # the points coincide
            return None
        deviation = _deviation(template, plane, fit)
        limit = max(_OUTLIER, 2.0 * float(np.median(deviation[usable])))
        kept = usable & (deviation <= limit)
        if kept.sum() < 6 or (kept == chosen).all():
            break
        chosen = kept
    if fit is None or fit.scale <= 0:
        return None
    misfit = float(np.sqrt(np.mean(deviation[chosen] ** 2)))
    return Pose(fit, squash, misfit, float(np.mean(deviation[usable] <= _OUTLIER)))


def _squash(template: Template, points: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
    """Find the ratio by which the columns must be stretched for the points to fit a hand best."""
    if chosen.sum() < 12:
        return 1.0
    # `Similarity.fit` and `_deviation` for all ratios at once, points as complex numbers: (mirrored or not, ratios, points).
    spread = np.maximum(template.spread[chosen], 0.01)
    share = 1 / spread**2 / np.sum(1 / spread**2)
    x, y = template.points[chosen].T
    hand = np.stack([x, -x])[:, None] + 1j * y
    seen = np.exp(_SQUASHES)[:, None] * points[chosen, 0] + 1j * points[chosen, 1]
    p, q = (z - (z @ share)[..., None] for z in (hand, seen))
    turn = (np.conj(p) * q @ share) / (np.abs(p) ** 2 @ share)
    away = np.abs(turn[..., None] * p - q)
    mirrored = np.argmin(away**2 @ share, axis=0)
    each = np.arange(len(_SQUASHES))
    deviation = away[mirrored, each] / np.maximum(np.abs(turn[mirrored, each]), 1e-9)[:, None] / spread
    costs = np.mean(np.minimum(deviation, _OUTLIER) ** 2, axis=1)
    return float(np.exp(_SQUASHES[int(np.argmin(costs))]))


def _deviation(template: Template, points: NDArray[np.float64], fit: Similarity) -> NDArray[np.float64]:
    """Distance of each point from its place, in its own standard deviations."""
    scale = max(fit.scale, 1e-9)
    away: NDArray[np.float64] = np.hypot(*(points - transforms.apply(fit.matrix, template.points)).T) / scale
    deviation: NDArray[np.float64] = away / np.maximum(template.spread, 0.01)
    return deviation


def rotation_degrees(points: NDArray[np.float64]) -> float:
    """Counter-clockwise angle by which the middle finger (mc3 to dp3) deviates from pointing up; y points down."""
    along = points[CHANNEL["dp3"]] - points[CHANNEL["mc3"]]
    return float(np.rad2deg(np.arctan2(-along[0], -along[1])))


def out_of_order(upright: NDArray[np.float64], found: NDArray[np.bool_]) -> tuple[str, ...]:
    """Name the found regions whose place contradicts the anatomy.

    Parameters
    ----------
    upright
        (89, 2) points in the canonical view: a left hand, thumb to the right, y down.
    found
        (89,) which of them were found.
    """
    wrong: list[str] = []

    def place(name: str) -> NDArray[np.float64] | None:
        return upright[CHANNEL[name]] if found[CHANNEL[name]] else None

    for kind, rays in _ROWS_OF_FINGERS.items():
        for near, far in pairwise(rays):  # the thumb's side first: x falls from ray to ray
            a, b = place(f"{kind}{near}"), place(f"{kind}{far}")
            if a is not None and b is not None and a[0] <= b[0]:
                wrong += [f"{kind}{near}", f"{kind}{far}"]
    for ray in range(1, 6):
        chain = [f"{kind}{ray}" for kind in ("mc", "pp", "mp", "dp") if f"{kind}{ray}" in CHANNEL]
        for lower, upper in pairwise(chain):
            a, b = place(lower), place(upper)
            if a is not None and b is not None and a[1] <= b[1]:
                wrong += [lower, upper]
    radius, ulna, carpus = place(RADIUS), place(ULNA), place(CARPUS)
    if radius is not None and ulna is not None and radius[0] <= ulna[0]:
        wrong += [RADIUS, ULNA]
    for bone, point in ((RADIUS, radius), (ULNA, ulna)):
        if point is not None and carpus is not None and point[1] <= carpus[1]:
            wrong += [bone, CARPUS]
    middle = place("mc3")
    if carpus is not None and middle is not None and carpus[1] <= middle[1]:
        wrong += [CARPUS, "mc3"]
    return tuple(dict.fromkeys(wrong))
