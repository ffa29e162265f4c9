"""Accumulate attenuation on the film, bone by bone, each inside its own bounding box."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.reading import Box

Array = NDArray[np.float32]
TILE: Final = 512


@dataclass(frozen=True, slots=True)
class View:
    """Map the plane of the hand (mm) to the film: pixel = matrix @ mm + offset, pixel centres at whole numbers."""

    matrix: NDArray[np.float64]  # (2, 2)
    offset: NDArray[np.float64]  # (2,) x, y

    @property
    def pixels_per_mm(self) -> float:
        """Scale of the view; it never shears."""
        return float(np.hypot(*self.matrix[:, 0]))

    def point(self, xy: tuple[float, float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Map one point or, with shape (n, 2), many."""
        mapped: NDArray[np.float64] = np.asarray(xy, dtype=np.float64) @ self.matrix.T + self.offset
        return mapped


@dataclass(slots=True)
class Window:
    """A patch of the film with the coordinates of a bone's frame at every pixel."""

    rows: slice
    columns: slice
    u: Array  # mm to the lateral side
    s: Array  # mm along the bone


class Masks(Mapping[str, NDArray[np.bool_]]):
    """Bone masks, kept as patches and given out as (rows, columns) arrays of the whole film."""

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = (rows, columns)
        self._patches: dict[str, list[tuple[slice, slice, NDArray[np.bool_]]]] = {}

    def add(self, name: str, rows: slice, columns: slice, patch: NDArray[np.bool_]) -> None:
        """Add a part of the bone `name`; a part too small to hold a pixel leaves no mask."""
        if not patch.any():
            return
        self._patches.setdefault(name, []).append((rows, columns, patch))

    def clip(self, box: Box) -> None:
        """Forget what lies outside `box`: the collimator hides it."""
        x1, y1, x2, y2 = (round(v) for v in box)
        for name, patches in list(self._patches.items()):
            kept = []
            for rows, columns, patch in patches:
                top, left = max(y1 - rows.start, 0), max(x1 - columns.start, 0)
                below, right = max(y2 - rows.start, top), max(x2 - columns.start, left)
                part = patch[top:below, left:right]
                if part.any():
                    corner = (rows.start + top, columns.start + left)
                    kept.append(
                        (slice(corner[0], corner[0] + part.shape[0]), slice(corner[1], corner[1] + part.shape[1]), part)
                    )
            if kept:
                self._patches[name] = kept
            else:
                del self._patches[name]

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        mask = np.zeros(self.shape, dtype=np.bool_)
        for rows, columns, patch in self._patches[name]:
            mask[rows, columns] |= patch
        return mask

    def __iter__(self) -> Iterator[str]:
        return iter(self._patches)

    def __len__(self) -> int:
        return len(self._patches)


@dataclass(slots=True)
class Canvas:
    """The film under construction: bone as mm of compact bone in the beam's path, and the mask of each bone."""

    rows: int
    columns: int
    view: View
    bone: Array = field(init=False)
    masks: Masks = field(init=False)
    epiphyses: Masks = field(init=False)

    def __post_init__(self) -> None:
        """Allocate the film."""
        self.bone = np.zeros((self.rows, self.columns), dtype=np.float32)
        self.masks = Masks(self.rows, self.columns)
        self.epiphyses = Masks(self.rows, self.columns)

    def window(
        self,
        origin: tuple[float, float],
        lateral: tuple[float, float],
        along: tuple[float, float],
        u_range: tuple[float, float],
        s_range: tuple[float, float],
    ) -> Window | None:
        """Return the patch that holds a rectangle of a bone's frame (mm), or None when it lies off the film."""
        corners = [
            (origin[0] + u * lateral[0] + s * along[0], origin[1] + u * lateral[1] + s * along[1])
            for u in u_range
            for s in s_range
        ]
        pixels = np.array(corners) @ self.view.matrix.T + self.view.offset
        x1, y1 = np.maximum(np.floor(pixels.min(0)).astype(int) - 1, 0)
        x2, y2 = np.minimum(np.ceil(pixels.max(0)).astype(int) + 2, (self.columns, self.rows))
        if x1 >= x2 or y1 >= y2:
            return None
        inverse = np.linalg.inv(self.view.matrix)
        # mm = inverse @ (pixel - offset); project on the frame: both coordinates are planes over the patch.
        u_row = np.array(lateral) @ inverse
        s_row = np.array(along) @ inverse
        start = self.view.point(origin)
        dx = np.arange(x1, x2) - start[0]
        dy = np.arange(y1, y2) - start[1]
        u = (dx * u_row[0]).astype(np.float32)[None, :] + (dy * u_row[1]).astype(np.float32)[:, None]
        s = (dx * s_row[0]).astype(np.float32)[None, :] + (dy * s_row[1]).astype(np.float32)[:, None]
        return Window(slice(int(y1), int(y2)), slice(int(x1), int(x2)), u, s)


def lookup(table: Array, position: Array) -> Array:
    """Read a finely sampled table at positions 0..1, clamped."""
    index = np.clip(position * np.float32(len(table) - 1) + np.float32(0.5), 0, len(table) - 1).astype(np.intp)
    values: Array = table.take(index)
    return values


def texture(tile: Array, u: Array, s: Array, per_mm: float, stretch: float) -> Array:
    """Read the trabecular pattern at points of a bone's frame; `stretch` lengthens it along the bone."""
    i = (u * np.float32(per_mm)).astype(np.int32) % TILE
    j = (s * np.float32(per_mm / stretch)).astype(np.int32) % TILE
    values: Array = tile.ravel().take(i * TILE + j)
    return values


def enlarge(field: Array, step: int, rows: int, columns: int) -> Array:
    """Interpolate linearly between samples `step` pixels apart; the film must not reach past the last sample."""
    tall = np.empty(((field.shape[0] - 1) * step, field.shape[1]), dtype=np.float32)
    for k in range(step):
        share = np.float32(k / step)
        tall[k::step] = field[:-1] * (1 - share) + field[1:] * share
    tall = tall[:rows]
    wide = np.empty((rows, (field.shape[1] - 1) * step), dtype=np.float32)
    rise = np.diff(tall, axis=1)
    for k in range(step):
        wide[:, k::step] = tall[:, :-1] + rise * np.float32(k / step)
    return wide[:, :columns]
