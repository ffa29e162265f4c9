"""Put a cast over forearm, wrist and palm, as films of healing fractures show: plaster, or fibreglass with its mesh."""

from dataclasses import replace
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from models.phantom.canvas import Array, View
from models.phantom.flesh import Limb, thickness
from models.phantom.skeleton import Bone, Build

Material = Literal["plaster", "fibreglass"]
MATERIALS: Final[tuple[Material, ...]] = ("plaster", "fibreglass")
# Attenuation of the wall over that of soft tissue: gypsum is nearly as dense to X-rays as bone, resin with glass is light.
_DENSITY: Final = {"plaster": 2.1, "fibreglass": 1.1}
_FOREARM_LIMBS: Final = 5  # the last limbs of `flesh.limbs`: wrist and forearm


def wall(
    rng: np.random.Generator,
    material: Material,
    view: View,
    shape: tuple[int, int],
    parts: list[Limb],
    hand: dict[str, Bone],
    build: Build,
) -> Array:
    """Return the cast in the beam's path as mm of soft tissue, for every pixel of a film of `shape` (rows, columns)."""
    padding, depth = float(rng.uniform(2.0, 5.0)), float(rng.uniform(3.0, 6.0))
    share = float(rng.uniform(0.25, 0.5))  # of the metacarpals that stays bare
    ends = [hand[name].at(0.0, hand[name].shaft_mm * share) for name in ("mc2", "mc3", "mc4", "mc5")]
    wide = 13.0 * build.width
    palm = [
        Limb((x, 3.0 * build.width), wide, end, wide, 0.9) for x, end in zip((9.0, 3.0, -4.0, -10.0), ends, strict=True)
    ]
    palm += [Limb(one, wide, other, wide, 0.9) for one, other in pairwise(ends)]
    inside = [*parts[-_FOREARM_LIMBS:], *palm]

    def widened(by: float) -> Array:
        limbs = [replace(limb, start_radius=limb.start_radius + by, end_radius=limb.end_radius + by) for limb in inside]
        return thickness(view, shape, limbs, [])

    walls = np.maximum(widened(padding + depth) - widened(padding), 0)
    pixels_per_mm = view.pixels_per_mm
    if material == "fibreglass":
        rows, columns = shape
        turn, pitch = float(rng.uniform(0.2, 0.6)), float(rng.uniform(1.6, 2.6)) * pixels_per_mm
        y, x = np.arange(rows, dtype=np.float32)[:, None], np.arange(columns, dtype=np.float32)[None, :]
        threads = [np.cos(2 * np.pi * (x * np.cos(a) + y * np.sin(a)) / pitch) for a in (turn, turn + 1.9)]
        texture = 1 + np.float32(0.16) * (threads[0] + threads[1])
    else:
        layers = gaussian_filter(rng.standard_normal((shape[0] // 4 + 1, shape[1] // 4 + 1)), (1.5, 6.0)).astype(
            np.float32
        )
        layers /= max(float(layers.std()), 1e-6)
        texture = 1 + np.float32(0.07) * np.kron(layers, np.ones((4, 4), np.float32))[: shape[0], : shape[1]]
    cast: Array = (walls * texture * np.float32(_DENSITY[material])).astype(np.float32)
    return cast
