"""Cut the distal radius and ulna out of a film, as P1 does by the detected object, and put the outlines back.

The crop is upright (forearm down) and has the radius on the right, whatever the rotation and the side of the hand: the
line from the ulna's box to the radius's is its x axis. Its side is `SIDE` times the radius's box.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from models.reading import Box

SIDE: Final = 2.0  # crop over the side of the radius's box
SHIFT: Final = 0.25  # centre of the crop towards the elbow from the midpoint of the two boxes, in crop sides
# How the two other measures of size relate to the radius's box in the boxes' convention (models.phantom.film).
_ULNA_TO_RADIUS: Final = 1.39
_DISTANCE_TO_RADIUS: Final = 1.76

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of the film: film pixel = centre + side * matrix @ (x, y), x and y in -0.5..0.5."""

    centre: NDArray[np.float64]  # (2,) x y
    matrix: NDArray[np.float64]  # (2, 2) orthonormal, perhaps a reflection
    side: float  # pixels of the film

    def moved(self, degrees: float, scale: float, dx: float, dy: float) -> "Crop":
        """Return the crop an inexact detector would have given; dx, dy in crop sides."""
        turn = np.deg2rad(degrees)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        centre = self.centre + self.side * self.matrix @ np.array([dx, dy])
        return Crop(centre, self.matrix @ rotation, self.side * scale)

    def film_points(self, size: int) -> NDArray[np.float64]:
        """Return the film position (x, y) of every pixel of a crop of `size` x `size`: (2, size, size)."""
        line = (np.arange(size) + 0.5) / size - 0.5
        x, y = np.meshgrid(line, line)
        points = np.tensordot(self.matrix, np.stack((x, y)), axes=1) * self.side
        placed: NDArray[np.float64] = points + self.centre[:, None, None]
        return placed


def crop_of(boxes: Mapping[str, Box]) -> Crop | None:
    """Return the DRU crop of a film's boxes, or None when radius or ulna was not found."""
    if "radius" not in boxes or "ulna" not in boxes:
        return None
    centres = {name: np.array([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2]) for name, b in boxes.items()}
    radius, ulna = centres["radius"], centres["ulna"]
    across = radius - ulna
    distance = float(np.hypot(*across))
    if distance < 1.0:
        return None
    sides = {name: float(b[2] - b[0] + b[3] - b[1]) / 2 for name, b in boxes.items()}
    side = float(np.median([sides["radius"], sides["ulna"] * _ULNA_TO_RADIUS, distance * _DISTANCE_TO_RADIUS]))
    middle = 0.5 * (radius + ulna)
    down = np.array([-across[1], across[0]]) / distance
    above = [centres[name] for name in ("carpus", "mc2", "mc3", "mc4", "mc5") if name in centres]
    if above:
        away = middle - np.mean(above, axis=0)
        away = away / max(float(np.hypot(*away)), 1e-6)
        if float(down @ away) < 0:
            down = -down
        down = down + away
        down = down / max(float(np.hypot(*down)), 1e-6)
    elif down[1] < 0:
        down = -down  # nothing of the hand was found: the forearm points down on an ordinary film
    right = np.array([down[1], -down[0]])
    if float(right @ across) < 0:
        right = -right
    whole = SIDE * side
    return Crop(middle + SHIFT * whole * down, np.stack((right, down), axis=1), whole)


def cut(pixels: Array, crop: Crop, size: int) -> tuple[Array, NDArray[np.bool_]]:
    """Sample the crop at `size` x `size`; also say which of its pixels lie on the film."""
    points = crop.film_points(size)
    x1, y1 = np.maximum(np.floor(points.reshape(2, -1).min(1)).astype(int) - 8, 0)
    x2, y2 = np.minimum(np.ceil(points.reshape(2, -1).max(1)).astype(int) + 9, (pixels.shape[1], pixels.shape[0]))
    if x1 >= x2 or y1 >= y2:
        return np.zeros((size, size), np.float32), np.zeros((size, size), np.bool_)
    patch = pixels[y1:y2, x1:x2]
    ratio = crop.side / size
    if ratio > 1.2:
        patch = gaussian_filter(patch, 0.42 * ratio, truncate=2.5)  # as fine as the crop can hold, against aliasing
    places = (points - np.array([x1, y1])[:, None, None] + 0.5) * 2 / np.array([x2 - x1, y2 - y1])[:, None, None] - 1
    grid = torch.from_numpy(places.astype(np.float32)).permute(1, 2, 0)[None]
    film = torch.from_numpy(np.ascontiguousarray(patch, dtype=np.float32))[None, None]
    sampled = functional.grid_sample(film, grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]
    inside = (points[0] >= -0.5) & (points[0] <= pixels.shape[1] - 0.5) & (points[1] >= -0.5)
    inside &= points[1] <= pixels.shape[0] - 0.5
    return sampled.numpy(), inside


def normalise(sampled: Array, inside: NDArray[np.bool_]) -> Array:
    """Subtract the mean and divide by the standard deviation (P1), both of what lies on the film; the rest becomes 0."""
    if not inside.any():
        return np.zeros_like(sampled)
    values = sampled[inside]
    scaled = (sampled - np.float32(values.mean())) / np.float32(max(float(values.std()), 1e-4))
    return np.where(inside, scaled, np.float32(0)).astype(np.float32)


def put_back(values: Array, crop: Crop, rows: slice | int, columns: slice | int) -> tuple[Array, slice, slice]:
    """Sample a crop's values at the film's pixels inside it; return them with the rows and columns they cover.

    `values` is (channels, size, size); outside of the crop the result is its background, 0. `rows` and `columns` are those of
    the film, or the part of them that is wanted.
    """
    rows, columns = (part if isinstance(part, slice) else slice(0, part) for part in (rows, columns))
    corners = crop.film_points(2).reshape(2, -1)
    reach = corners - crop.centre[:, None]
    corners = crop.centre[:, None] + 2 * reach  # `film_points(2)` lies half way to the corners
    x1, y1 = np.maximum(np.floor(corners.min(1)).astype(int), (columns.start, rows.start))
    x2, y2 = np.minimum(np.ceil(corners.max(1)).astype(int) + 1, (columns.stop, rows.stop))
    if x1 >= x2 or y1 >= y2:
        return np.zeros((values.shape[0], 0, 0), np.float32), slice(0, 0), slice(0, 0)
    # Where the film's pixels lie in the crop, in the -1 to 1 of `grid_sample`; torch does this five times as fast as scipy.
    inverse = torch.from_numpy((2 / crop.side) * crop.matrix).float()
    dx = torch.arange(x1, x2, dtype=torch.float32) - float(crop.centre[0])
    dy = torch.arange(y1, y2, dtype=torch.float32)[:, None] - float(crop.centre[1])
    grid = torch.stack([inverse[0, axis] * dx + inverse[1, axis] * dy for axis in (0, 1)], dim=-1)
    planes = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    placed = functional.grid_sample(planes[None], grid[None], mode="bilinear", align_corners=False)[0]
    return placed.numpy(), slice(int(y1), int(y2)), slice(int(x1), int(x2))


def reached(values: Array, crops: Sequence[Crop], least: float, rows: int, columns: int) -> tuple[slice, slice] | None:
    """Return the part of the film outside of which no crop has a value above `least`; None where there is none.

    `values` is (crops, channels, size, size).
    """
    places = []
    for own, crop in zip(values, crops, strict=True):
        y, x = np.nonzero(own.max(axis=0) > least)
        if len(y):
            size = own.shape[-1]
            edges = np.array(
                [[x.min(), x.max() + 1, x.min(), x.max() + 1], [y.min(), y.min(), y.max() + 1, y.max() + 1]]
            )
            away = 1.0 * np.array(
                [[-1, 1, -1, 1], [-1, -1, 1, 1]]
            )  # a pixel more: values are interpolated between pixels
            places.append(crop.centre[:, None] + crop.side * crop.matrix @ ((edges + away) / size - 0.5))
    if not places:
        return None
    corners = np.concatenate(places, axis=1)
    x1, y1 = np.maximum(np.floor(corners.min(1)).astype(int), 0)
    x2, y2 = np.minimum(np.ceil(corners.max(1)).astype(int) + 1, (columns, rows))
    return (slice(int(y1), int(y2)), slice(int(x1), int(x2))) if x1 < x2 and y1 < y2 else None


def join(values: Array, crops: Sequence[Crop], rows: slice | int, columns: slice | int) -> tuple[Array, slice, slice]:
    """Put several crops' values back; where they overlap, the result is their mean.

    `values` is (crops, channels, size, size); what is returned is as in `put_back`, for the part of the film all of them cover.
    """
    if len(crops) == 1:
        return put_back(values[0], crops[0], rows, columns)
    # One channel more says how much of a crop a pixel has: bilinear sampling fades at its border.
    shares = np.ones((1, *values.shape[2:]), np.float32)
    placed = [put_back(np.concatenate((v, shares)), crop, rows, columns) for v, crop in zip(values, crops, strict=True)]
    placed = [part for part in placed if part[0].size] or placed[:1]
    downs, acrosses = [part[1] for part in placed], [part[2] for part in placed]
    rows_seen = slice(min(down.start for down in downs), max(down.stop for down in downs))
    columns_seen = slice(min(across.start for across in acrosses), max(across.stop for across in acrosses))
    y, x = rows_seen.start, columns_seen.start
    total = np.zeros((values.shape[1] + 1, rows_seen.stop - y, columns_seen.stop - x), np.float32)
    for part, down, across in placed:
        total[:, down.start - y : down.stop - y, across.start - x : across.stop - x] += part
    # Where all crops together cover less than one pixel of one crop, nothing is made greater than it was.
    total[:-1] /= np.maximum(total[-1:], 1.0)
    return total[:-1], rows_seen, columns_seen
