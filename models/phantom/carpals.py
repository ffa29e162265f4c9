"""Draw the eight carpal bones and the sesamoid of the thumb, each as far as it has ossified."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from models.phantom.bones import Tissue
from models.phantom.canvas import Array, Canvas, lookup, texture
from models.phantom.skeleton import Bone
from models.regions import Sex

# Outline of the adult bone, mm from its centre, in the frame of the hand (x to the thumb, y to the elbow), and its centre.
_OUTLINES: Final = {
    "capitate": ((0.5, 12.2), ((-6.5, -9.5), (0, -11.5), (6.5, -10), (5.8, -3), (5.5, 3), (6, 8), (1, 11), (-4, 10), (-6, 4), (-5.5, -3))),
    "hamate": ((-12.6, 11.5), ((-8, -8.5), (-1, -9), (5, -8.5), (6, -2), (5.6, 5), (3, 10), (-1, 7), (-5, 1), (-8.5, -4))),
    "triquetral": ((-20.5, 21.5), ((-5, -7), (0, -6.5), (5, 0), (7, 5), (3, 8), (-3, 6.5), (-6, 1))),
    "pisiform": ((-20.5, 24.5), ((0, -5.0), (4, -2.5), (4.2, 2.5), (0, 5.2), (-4, 2.5), (-4, -2.5))),
    "lunate": ((-6.0, 28.0), ((-8, -3), (-4, -6), (2, -5.5), (7, -6.0), (8, 0), (5, 5.5), (-2, 7), (-8, 3))),
    "scaphoid": ((10.5, 22.5), ((-3, -4), (1, -9), (6, -9), (8, -3), (4, 4), (-1, 9.5), (-7, 9), (-7.5, 4))),
    "trapezium": ((22.0, 9.0), ((-6, -5), (-1, -7.5), (4, -6), (8, 0), (6, 6), (-1, 7), (-6.5, 3))),
    "trapezoid": ((13.2, 7.0), ((-5, -4), (0, -6.5), (5, -4.5), (5.5, 1.5), (2, 5.8), (-4, 5.5), (-5.5, 1))),
}  # fmt: skip
# Median age at which the centre appears (girls, boys): Garn 1967; the pisiform rounded.
_APPEARS: Final = {
    "capitate": (0.20, 0.25), "hamate": (0.20, 0.33), "triquetral": (1.7, 2.4), "lunate": (2.7, 4.1),
    "scaphoid": (4.1, 5.7), "trapezium": (4.1, 5.9), "trapezoid": (4.2, 6.3), "pisiform": (8.5, 10.5),
}  # fmt: skip
_GROWN: Final = (13.0, 15.0)  # bone age by which the carpals have their adult form
_SESAMOID_APPEARS: Final = (10.8, 12.8)
CARPALS: Final = tuple(_OUTLINES)
_ANGLES: Final = np.linspace(-np.pi, np.pi, 361)


@dataclass(frozen=True, slots=True)
class Carpal:
    """One carpal bone in the plane of the hand; radii in mm at 361 angles from -pi to pi."""

    name: str
    centre: tuple[float, float]
    radii: NDArray[np.float32]
    cartilage: NDArray[np.float64]  # adult outline at the size of this hand, (n, 2) mm; the model the bone grows in


def _radii(outline: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """Return the smooth outline's radius at every angle; the outlines are star-shaped about their centre."""
    points = np.array((*outline, outline[0]), dtype=np.float64)
    curve = CubicSpline(np.arange(len(points)), points, bc_type="periodic")(
        np.linspace(0, len(outline), 240, endpoint=False)
    )
    angle, radius = np.arctan2(curve[:, 1], curve[:, 0]), np.hypot(curve[:, 0], curve[:, 1])
    order = np.argsort(angle)
    radii: NDArray[np.float64] = np.interp(_ANGLES, angle[order], radius[order], period=2 * np.pi)
    return radii


_ADULT: Final = {name: _radii(outline) for name, (_, outline) in _OUTLINES.items()}


def ossified(name: str, age_years: float, sex: Sex, shift_years: float = 0.0) -> float:
    """Return how much of the adult bone has ossified, 0 (absent) to 1, as a fraction of its diameter."""
    column = 0 if sex == "F" else 1
    appears = _APPEARS[name][column] + shift_years
    if age_years < appears:
        return 0.0
    share = min((age_years - appears) / (_GROWN[column] - appears), 1.0)
    # The first two grow fast in infancy; the later ones take their time.
    return float(0.12 + 0.88 * share ** (0.25 if name in ("capitate", "hamate") else 0.5))


def place(rng: np.random.Generator, age_years: float, sex: Sex, width: float) -> dict[str, Carpal]:
    """Return the carpals of a hand whose widths are `width` of the adult man's; `radii` are 0 where one is absent."""
    carpals: dict[str, Carpal] = {}
    for name, ((x, y), _) in _OUTLINES.items():
        share = ossified(name, age_years, sex, float(rng.normal(0.0, 0.05 + 0.04 * age_years)))
        adult = 1.07 * _ADULT[name] * width * float(rng.normal(1.0, 0.03))
        jitter = rng.normal(0.0, 0.35, 2)
        centre = (float((x + jitter[0]) * width), float((y + jitter[1]) * width))
        disc = float(np.sqrt((adult**2).mean()))
        own = 1.0 + 0.03 * np.sin(2 * _ANGLES + rng.uniform(0, 6)) + 0.02 * np.sin(3 * _ANGLES + rng.uniform(0, 6))
        form = np.clip((share - 0.3) / 0.55, 0.0, 1.0)
        # The cartilage between two bones never ossifies: 7 % of the diameter stays as the joint space.
        radii = 0.96 * share * (form * adult + (1 - form) * disc * 0.92) * own
        outline = np.stack((centre[0] + adult * np.cos(_ANGLES), centre[1] + adult * np.sin(_ANGLES)), axis=1)
        carpals[name] = Carpal(name, centre, radii.astype(np.float32), outline)
    return carpals


def sesamoid(rng: np.random.Generator, thumb: Bone, age_years: float, sex: Sex, width: float) -> Carpal | None:
    """Return the sesamoid beside the head of the first metacarpal, or None before it appears."""
    appears = _SESAMOID_APPEARS[0 if sex == "F" else 1] + float(rng.normal(0.0, 0.6))
    if age_years < appears:
        return None
    radius = width * float(np.clip(1.2 + 0.9 * (age_years - appears), 1.2, 2.6))
    centre = thumb.at(-0.42 * thumb.far_mm, thumb.shaft_mm - 0.12 * thumb.far_mm)
    radii = radius * (1.0 + 0.15 * np.cos(2 * _ANGLES + rng.uniform(0, 6)))
    outline = np.stack((centre[0] + radii * np.cos(_ANGLES), centre[1] + radii * np.sin(_ANGLES)), axis=1)
    return Carpal("sesamoid", centre, radii.astype(np.float32), outline)


def draw(canvas: Canvas, carpal: Carpal, tissue: Tissue, tile: Array, rng: np.random.Generator) -> None:
    """Add one carpal bone to the film."""
    seed_u, seed_s = float(rng.uniform(0, 60)), float(rng.uniform(0, 60))
    reach = float(carpal.radii.max())
    if reach <= 0:
        return
    window = canvas.window(
        carpal.centre, (1.0, 0.0), (0.0, 1.0), (-reach - 0.5, reach + 0.5), (-reach - 0.5, reach + 0.5)
    )
    if window is None:
        return
    angle = np.arctan2(window.s, window.u)
    distance = np.hypot(window.u, window.s)
    position = (angle + np.float32(np.pi)) / np.float32(2 * np.pi)
    radius = lookup(carpal.radii, position)
    slope = np.gradient(carpal.radii.astype(np.float64), _ANGLES) / np.maximum(carpal.radii, 1e-3)
    inside = (radius - distance) * lookup((1.0 / np.sqrt(1.0 + slope * slope)).astype(np.float32), position)
    cover = np.clip(inside * np.float32(canvas.view.pixels_per_mm) + np.float32(0.5), 0, 1)
    size = float(carpal.radii.mean())
    m = np.clip(inside / np.float32(0.75 * size), 0, 1)
    depth = np.float32(1.55 * size) * np.sqrt(m * (2 - m))
    grain = texture(tile, window.u + np.float32(seed_u), window.s + np.float32(seed_s), tissue.per_mm, 1.1)
    density = depth * np.float32(tissue.spongiosa * 0.95) * (1 + np.float32(tissue.grain) * grain)
    rim = np.float32(tissue.rim_mm)
    density += np.exp(-(((inside - rim) / rim) ** 2)) * np.float32(0.30 * size)
    canvas.bone[window.rows, window.columns] += density * (cover * np.float32(tissue.mineral))
    canvas.masks.add(carpal.name, window.rows, window.columns, cover > 0.5)
