"""Cut the distal radius and ulna out of a film, as P1 does by the detected object, and put the outlines back.

The crop is upright (forearm down) and has the radius on the right, whatever the rotation and the side of the hand: the
line from the ulna's box to the radius's is its x axis. Its side is `SIDE` times the radius's box.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
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
    line = (np.arange(size) + 0.5) / size - 0.5
    axes = crop.side * crop.matrix  # film pixel = axes @ (x, y) + centre
    far = np.abs(axes).sum(axis=1) * line[-1]
    low, high = crop.centre - far, crop.centre + far
    x1, y1 = np.maximum(np.floor(low).astype(int) - 8, 0)
    x2, y2 = np.minimum(np.ceil(high).astype(int) + 9, (pixels.shape[1], pixels.shape[0]))
    if x1 >= x2 or y1 >= y2:
        return np.zeros((size, size), np.float32), np.zeros((size, size), np.bool_)
    patch = np.asarray(pixels[y1:y2, x1:x2], np.float32)
    ratio = crop.side / size
    # As fine as the crop can hold, against aliasing.
    film = torch.from_numpy(smoothed(patch, 0.42 * ratio) if ratio > 1.2 else np.ascontiguousarray(patch))
    scale = 2 / np.array([x2 - x1, y2 - y1])
    grid = _plane(line, line, axes * scale[:, None], (crop.centre - (x1, y1) + 0.5) * scale - 1)
    # torch gives each film a thread of its own: two halves of the crop, as if each were of another film.
    halves = grid.view(2 if size % 2 == 0 else 1, -1, size, 2)
    sampled = functional.grid_sample(
        film.expand(len(halves), 1, -1, -1), halves, mode="bilinear", padding_mode="border", align_corners=False
    )
    last = np.array([pixels.shape[1], pixels.shape[0]]) - 0.5
    inside = np.ones((size, size), np.bool_)
    if (low < -0.5).any() or (high > last).any():
        for place, (across, down), end in zip(crop.centre, axes, last, strict=True):
            position = across * line + (down * line + place)[:, None]
            inside &= (position >= -0.5) & (position <= end)
    return sampled.view(size, size).numpy(), inside


def smoothed(pixels: Array, sigma: float) -> Array:
    """Return what `scipy.ndimage.gaussian_filter(pixels, sigma, truncate=2.5)` does, in single precision and a tenth of the time."""
    reach = int(2.5 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    return np.asarray(cv2.sepFilter2D(pixels, -1, weights, weights, borderType=cv2.BORDER_REFLECT), np.float32)


def _plane(
    x: NDArray[np.float64], y: NDArray[np.float64], axes: NDArray[np.float64], shift: NDArray[np.float64]
) -> torch.Tensor:
    """Return axes @ (x, y) + shift for every x in every y, (y, x, 2) in single precision.

    Through complex numbers, in which a place is one value: stacking two planes of them along a last axis takes twenty times as long.
    """
    across, down = (
        np.ascontiguousarray(part).view(np.complex128)[:, 0]
        for part in (x[:, None] * axes[:, 0], y[:, None] * axes[:, 1] + shift)
    )
    return torch.view_as_real(
        torch.from_numpy(across.astype(np.complex64)) + torch.from_numpy(down.astype(np.complex64))[:, None]
    )


def normalise(sampled: Array, inside: NDArray[np.bool_]) -> Array:
    """Subtract the mean and divide by the standard deviation (P1), both of what lies on the film; the rest becomes 0."""
    if not inside.any():
        return np.zeros_like(sampled)
    whole = bool(inside.all())
    scaled: Array = sampled - (sampled if whole else sampled[inside]).mean()
    # As `std` does it, but for the mean, which it would take again.
    spread = np.sqrt(np.square(scaled if whole else scaled[inside]).mean())
    scaled /= max(float(spread), 1e-4)
    return scaled if whole else np.where(inside, scaled, np.float32(0))


def put_back(values: Array, crop: Crop, rows: slice | int, columns: slice | int) -> tuple[Array, slice, slice]:
    """Sample a crop's values at the film's pixels inside it; return them with the rows and columns they cover.

    `values` is (channels, size, size); outside of the crop the result is its background, 0. `rows` and `columns` are those of
    the film, or the part of them that is wanted.
    """
    rows, columns = covered(crop, rows, columns)
    if rows.start >= rows.stop:
        return np.zeros((values.shape[0], 0, 0), np.float32), slice(0, 0), slice(0, 0)
    return _sampled(values, _places(crop, rows, columns)).numpy(), rows, columns


def covered(crop: Crop, rows: slice | int, columns: slice | int) -> tuple[slice, slice]:
    """Return the smallest part of these rows and columns of the film that holds all of the crop in them; empty where none is."""
    rows, columns = (part if isinstance(part, slice) else slice(0, part) for part in (rows, columns))
    far = 0.5 * np.abs(crop.side * crop.matrix).sum(axis=1)
    x1, y1 = np.maximum(np.floor(crop.centre - far).astype(int), (columns.start, rows.start))
    x2, y2 = np.minimum(np.ceil(crop.centre + far).astype(int) + 1, (columns.stop, rows.stop))
    if x1 >= x2 or y1 >= y2:
        return slice(0, 0), slice(0, 0)
    return slice(int(y1), int(y2)), slice(int(x1), int(x2))


def _places(crop: Crop, rows: slice, columns: slice) -> torch.Tensor:
    """Return where the film's pixels lie in the crop, (rows, columns, 2), in the -1 to 1 of `grid_sample`."""
    x, y = (
        np.arange(part.start, part.stop) - middle for part, middle in zip((columns, rows), crop.centre, strict=True)
    )
    return _plane(x, y, (2 / crop.side) * crop.matrix.T, np.zeros(2))


def _sampled(values: Array, places: torch.Tensor) -> torch.Tensor:
    """Sample each channel (channels, size, size) at the places, as one film each: torch gives each film a thread of its own."""
    planes = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[:, None]
    grid = places.expand(len(planes), *places.shape)
    return functional.grid_sample(planes, grid, mode="bilinear", align_corners=False)[:, 0]


def reached(values: Array, crops: Sequence[Crop], least: float, rows: int, columns: int) -> tuple[slice, slice] | None:
    """Return the part of the film outside of which no crop has a value above `least`; None where there is none.

    `values` is (crops, channels, size, size).
    """
    places = []
    for own, crop in zip(values, crops, strict=True):
        likely = (own > least).any(axis=0)
        x, y = (np.flatnonzero(likely.any(axis=axis)) for axis in (0, 1))
        if len(y):
            size = own.shape[-1]
            edges = np.array([[x[0], x[-1] + 1, x[0], x[-1] + 1], [y[0], y[0], y[-1] + 1, y[-1] + 1]])
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
    parts = [(crop, *covered(crop, rows, columns)) for crop in crops]
    kept = [part for part in zip(values, *zip(*parts, strict=True), strict=True) if part[2].start < part[2].stop]
    if not kept:
        return np.zeros((values.shape[1], 0, 0), np.float32), slice(0, 0), slice(0, 0)
    rows = slice(min(part[2].start for part in kept), max(part[2].stop for part in kept))
    columns = slice(min(part[3].start for part in kept), max(part[3].stop for part in kept))
    total = torch.zeros(values.shape[1], rows.stop - rows.start, columns.stop - columns.start)
    shares = torch.zeros(total.shape[1:])
    for own, crop, down, across in kept:
        places = _places(crop, down, across)
        here = (
            slice(down.start - rows.start, down.stop - rows.start),
            slice(across.start - columns.start, across.stop - columns.start),
        )
        total[:, *here] += _sampled(own, places)
        shares[here] += _shares(places, own.shape[-1])
    # Where all crops together cover less than one pixel of one crop, nothing is made greater than it was.
    return total.div_(shares.clamp_(min=1.0)).numpy(), rows, columns


def _shares(places: torch.Tensor, size: int) -> torch.Tensor:
    """Return how much of a crop each pixel has, (rows, columns): 1 within it, fading at its border as bilinear sampling does."""
    shares = torch.ones(places.shape[:2])
    # A row whose two ends lie within the crop lies within it; most do.
    ends = places[:, :: max(places.shape[1] - 1, 1)]
    fading = (ends.abs().amax(dim=(1, 2)) > 1 - 1 / size).nonzero()[:, 0]
    if len(fading):
        near = (0.5 * size * (1 - places[fading].abs()) + 0.5).clamp_(0.0, 1.0)
        shares[fading] = near[..., 0] * near[..., 1]
    return shares
