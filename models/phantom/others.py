"""Draw films that are not one hand: what a service must refuse, with a reason."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from models.image import Image
from models.phantom import exposure, flesh, furniture
from models.phantom.canvas import Array, View
from models.phantom.film import draw
from models.phantom.two_hands import match

Kind = Literal["chest", "foot", "blank", "two hands"]
KINDS: Final[tuple[Kind, ...]] = ("chest", "foot", "blank", "two hands")


def draw_other(kind: Kind, seed: int, *, rows: int = 1000, columns: int = 800) -> Image:
    """Draw a film of something else from its seed; bone bright.

    Raises
    ------
    ValueError
        When the kind is unknown.
    """
    rng = np.random.default_rng((seed, KINDS.index(kind) if kind in KINDS else 0))
    if kind == "blank":
        return _film(rng, np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32))
    if kind == "chest":
        return _film(rng, *_chest(rng, rows, columns))
    if kind == "foot":
        return _film(rng, *_foot(rng, rows, columns))
    if kind == "two hands":
        half = columns // 2
        left = draw(
            int(rng.integers(2**31)), laterality="L", rows=rows, columns=half, furnished=False, collimated=False
        )
        right = draw(
            int(rng.integers(2**31)),
            laterality="R",
            rows=rows,
            columns=columns - half,
            furnished=False,
            collimated=False,
        )
        return Image(np.concatenate([right.image.pixels, match(left.image.pixels, right.image.pixels)], axis=1))
    raise ValueError(f"no phantom of kind {kind!r}; there are {', '.join(KINDS)}")


def _film(rng: np.random.Generator, soft: Array, bone: Array) -> Image:
    lead: Array | None = None
    if rng.random() < 0.6:
        lead = np.zeros_like(soft)
        furniture.lead_marker(rng, lead, soft, str(rng.choice(["L", "R"])))
    settings = exposure.Exposure.sample(rng, low_contrast=False)
    film = exposure.expose(rng, soft, bone, lead, settings, soft.shape[1] / 220.0)
    if rng.random() < 0.4:
        furniture.burned_text(rng, film)
    return Image(film, "MONOCHROME2", settings.bits)


def _grid(rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x from -1 to 1 across the film and y in the same unit, from the top."""
    x: NDArray[np.float64] = np.linspace(-1.0, 1.0, columns)[None, :]
    y: NDArray[np.float64] = (np.arange(rows, dtype=np.float64) * (2.0 / columns))[:, None]
    return x, y


def _chest(rng: np.random.Generator, rows: int, columns: int) -> tuple[Array, Array]:
    x, y = _grid(rows, columns)
    height = 2.0 * rows / columns
    y = y / height  # 0 top to 1 bottom
    body = 1 - (np.abs(x) / (0.93 + 0.05 * np.sin(3 * y))) ** 6
    soft = 34.0 * np.sqrt(np.clip(body, 0, 1)) * (0.85 + 0.3 * y)
    for side in (-1, 1):
        centre = side * rng.uniform(0.42, 0.48)
        lung = 1 - ((x - centre) / rng.uniform(0.29, 0.34)) ** 2 - ((y - 0.46) / rng.uniform(0.30, 0.36)) ** 2
        soft = soft - 17.0 * np.clip(lung * 1.6, 0, 1)
    heart = 1 - ((x - 0.12) / 0.27) ** 2 - ((y - 0.62) / 0.17) ** 2
    soft = soft + 14.0 * np.sqrt(np.clip(heart, 0, 1)) + 12.0 * np.exp(-((x / 0.12) ** 2)) * (y > 0.02)
    bone = 3.5 * np.exp(-((x / 0.07) ** 2)) * (1 + 0.25 * np.cos(y * 2 * np.pi * 17))
    for side in (-1, 1):
        for rib in range(9):
            top = 0.12 + 0.075 * rib + rng.normal(0, 0.004)
            path = top + 0.16 * (np.abs(x) - 0.10) + 0.10 * (np.abs(x) - 0.5) ** 2
            band = np.exp(-(((y - path) / 0.011) ** 2)) * (side * x > 0.06) * (np.abs(x) < 0.85)
            bone = bone + 1.8 * band
        collar = 0.13 - 0.07 * np.abs(x)
        bone = bone + 2.4 * np.exp(-(((y - collar) / 0.013) ** 2)) * (side * x > 0.08) * (np.abs(x) < 0.75)
    return np.maximum(soft, 0).astype(np.float32), gaussian_filter(bone.astype(np.float32), 1.5)


def _foot(rng: np.random.Generator, rows: int, columns: int) -> tuple[Array, Array]:
    """Draw an adult foot seen from above: five slender parallel metatarsals, short toes, a large first ray."""
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    scale = min(rows / 250.0, columns / 130.0) * float(rng.uniform(0.85, 1.05))
    turn = np.deg2rad(rng.normal(0, 8))
    matrix = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ np.diag([mirror, 1.0])
    view = View(matrix, np.array([columns / 2, rows * 0.47]))
    parts = [
        flesh.Limb((2, 95), 30, (4, 30), 34, 1.2),
        flesh.Limb((4, 30), 36, (2, -28), 44, 0.8),
        flesh.Limb((14, -28), 30, (-14, -20), 28, 0.7),
    ]
    bone = np.zeros((rows, columns), dtype=np.float32)
    rods: list[tuple[tuple[float, float], tuple[float, float], float]] = []
    for ray, (base, head, radius) in enumerate(
        (
            ((16, 28), (27, -32), 8.0),
            ((6, 24), (10, -42), 4.8),
            ((-3, 26), (-5, -38), 4.4),
            ((-11, 30), (-19, -30), 4.4),
            ((-19, 36), (-32, -20), 4.8),
        )
    ):
        rods.append((base, head, radius))
        out = np.array(head, dtype=float) - np.array(base, dtype=float)
        out /= np.hypot(*out)
        point = np.array(head, dtype=float) + 5 * out
        lengths = (26.0, 20.0) if ray == 0 else (19.0 - ray, 7.0, 6.0)
        for length, share in zip(lengths, (0.85, 0.75, 0.7), strict=False):
            end = point + length * out
            rods.append(((float(point[0]), float(point[1])), (float(end[0]), float(end[1])), radius * share))
            point = end + 3.0 * out
        parts.append(flesh.Limb(head, radius + 6, (float(point[0]), float(point[1])), radius + 4, 0.9))
    for start, end, radius in rods:
        bone += _rod(view, (rows, columns), start, end, radius)
    for x, y, rx, ry in (
        (12, 38, 9, 8),
        (2, 36, 8, 8),
        (-8, 42, 10, 11),
        (8, 55, 17, 9),
        (4, 78, 19, 19),
        (0, 108, 17, 22),
    ):
        start, end = (x, y - 0.6 * (ry - min(rx, ry)) - 0.1), (x, y + 0.6 * (ry - min(rx, ry)) + 0.1)
        bone += _rod(view, (rows, columns), start, end, float(min(rx, ry)), spongy=True)
    return flesh.thickness(view, (rows, columns), parts, []), bone


def _rod(
    view: View,
    shape: tuple[int, int],
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    *,
    spongy: bool = False,
) -> Array:
    """Return one rounded bone, waisted in the middle, as mm of compact bone."""
    inverse = np.linalg.inv(view.matrix)
    px, py = np.arange(shape[1]) - view.offset[0], np.arange(shape[0]) - view.offset[1]
    x = px[None, :] * inverse[0, 0] + py[:, None] * inverse[0, 1]
    y = px[None, :] * inverse[1, 0] + py[:, None] * inverse[1, 1]
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max(float(np.hypot(dx, dy)), 1e-3)
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / length**2, 0, 1)
    width = radius * (1.0 if spongy else 0.62 + 0.38 * np.abs(2 * along - 1) ** 2)
    away = np.hypot(x - start[0] - dx * along, y - start[1] - dy * along)
    outer = np.sqrt(np.clip(1 - (away / width) ** 2, 0, 1)) * width * 1.6
    wall = 0.15 if spongy else 0.45
    inner = np.sqrt(np.clip(1 - (away / (width * (1 - wall))) ** 2, 0, 1)) * width * (1 - 0.7 * wall) * 1.6
    return np.asarray((outer - inner) * 0.9 + inner * 0.2, dtype=np.float32)
