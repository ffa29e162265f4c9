"""Move between a film's own pixels and a small square view of it; training and serving share every step.

A *view* is a square of `size` x `size` pixels that shows the film through an affine map. Its first channel holds grey
levels stretched between the film's percentiles, 0 outside the film; its second says where the film is.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]  # (2, 3): maps (x, y, 1) of a view to (x, y) of the film; pixel centres at whole numbers

PERCENTILES: Final = (1.0, 99.5)


@dataclass(frozen=True, slots=True)
class Similarity:
    """A map that keeps angles, perhaps mirrored: first mirrors x when asked, then turns and scales, then shifts.

    Parameters
    ----------
    scale
        Length in the target per length in the source.
    radians
        Turn from x towards y (clockwise on a film, whose y points down).
    """

    scale: float
    radians: float
    shift: tuple[float, float]
    mirrored: bool = False

    @property
    def matrix(self) -> Matrix:
        """The (2, 3) matrix of the map."""
        cosine, sine = self.scale * np.cos(self.radians), self.scale * np.sin(self.radians)
        flip = -1.0 if self.mirrored else 1.0
        return np.array([[flip * cosine, -sine, self.shift[0]], [flip * sine, cosine, self.shift[1]]])

    @classmethod
    def fit(
        cls, source: NDArray[np.floating], target: NDArray[np.floating], weights: NDArray[np.floating] | None = None
    ) -> Self:
        """Fit (n, 2) points to (n, 2) points by weighted least squares, mirrored or not, whichever fits better.

        Raises
        ------
        ValueError
            For fewer than two points or points that coincide.
        """
        if len(source) < 2:
            raise ValueError(f"{len(source)} points; a similarity needs at least two")
        share = np.full(len(source), 1.0) if weights is None else np.asarray(weights, np.float64)
        share = share / share.sum()
        best: tuple[float, Self] | None = None
        for mirrored in (False, True):
            points = np.asarray(source, np.float64) * np.array([-1.0 if mirrored else 1.0, 1.0])
            a, b = share @ points, share @ np.asarray(target, np.float64)
            p, q = (points - a) @ np.array([1, 1j]), (np.asarray(target, np.float64) - b) @ np.array([1, 1j])
            spread = float((share * np.abs(p) ** 2).sum())
            if spread <= 0:
                raise ValueError("the points coincide; a similarity needs two places")
            turn = complex((share * np.conj(p) * q).sum() / spread)
            residual = float((share * np.abs(turn * p - q) ** 2).sum())
            shift = complex(b @ np.array([1, 1j])) - turn * complex(a @ np.array([1, 1j]))
            found = cls(abs(turn), float(np.angle(turn)), (shift.real, shift.imag), mirrored)
            if best is None or residual < best[0]:
                best = residual, found
        if best is None:
            raise ValueError("no similarity was found")
        return best[1]


def apply(matrix: Matrix, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map (..., 2) points by a (2, 3) matrix."""
    mapped: NDArray[np.float64] = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped


def invert(matrix: Matrix) -> Matrix:
    """Return the (2, 3) matrix of the opposite map.

    Raises
    ------
    ValueError
        When the matrix flattens the plane.
    """
    linear = matrix[:, :2]
    if abs(np.linalg.det(linear)) < 1e-12:
        raise ValueError("a matrix that flattens the plane has no opposite")
    back = np.linalg.inv(linear)
    return np.hstack([back, -back @ matrix[:, 2:]])


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Return the matrix that applies `inner`, then `outer`."""
    return np.hstack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]])


def letterbox(shape: tuple[int, ...], size: int) -> Matrix:
    """Map a view of `size` pixels to the film so that the whole film lies in its middle."""
    rows, columns = shape
    scale = max(rows, columns) / size
    return np.array(
        [
            [scale, 0.0, (columns - 1) / 2 - scale * (size - 1) / 2],
            [0.0, scale, (rows - 1) / 2 - scale * (size - 1) / 2],
        ]
    )


def shrink(pixels: NDArray[np.float32], long_side: int) -> tuple[NDArray[np.float32], float]:
    """Average whole blocks until the longer side has at most twice `long_side` pixels, and return the block's side.

    Averaging before sampling keeps fine texture from turning into false edges; less than a block at the right and lower
    border is dropped.
    """
    block = max(1, max(pixels.shape) // long_side)
    if block == 1:
        return pixels, 1.0
    rows, columns = (side // block * block for side in pixels.shape)
    # Whole rows one after the other, then whole columns: several times faster than numpy's reductions over so short an axis.
    summed = pixels[0:rows:block, :columns].copy()
    for row in range(1, block):
        summed += pixels[row:rows:block, :columns]
    mean = summed[:, 0::block].copy()
    for column in range(1, block):
        mean += summed[:, column::block]
    return (mean * np.float32(1 / block**2)).astype(np.float32, copy=False), float(block)


def unshrink(matrix: Matrix, block: float) -> Matrix:
    """Turn a map to shrunk pixels into a map to the film's own pixels: pixel centres are at whole numbers."""
    return np.hstack([matrix[:, :2] * block, matrix[:, 2:] * block + (block - 1) / 2])


def stretch(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch grey levels so that the 1st and 99.5th percentile become 0 and 1; a flat film becomes 0."""
    low, high = (float(level) for level in np.percentile(pixels, PERCENTILES))
    if high - low < 1e-4:
        return np.zeros_like(pixels)
    stretched: NDArray[np.float32] = np.clip((pixels - np.float32(low)) / np.float32(high - low), 0, 1)
    return stretched


def sample(pixels: NDArray[np.float32], matrix: Matrix, size: int) -> NDArray[np.float32]:
    """Look at the film through a matrix: (2, size, size) grey levels, 0 outside, and where the film is; bilinear."""
    found: NDArray[np.float32] = samples(pixels, matrix[None], size)[0]
    return found


def samples(pixels: NDArray[np.float32], matrices: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Look at the film through each of (n, 2, 3) matrices at once: (n, 2, size, size), each as `sample` gives it."""
    rows, columns = pixels.shape
    grid = np.arange(size, dtype=np.float64)
    x, y = (
        matrices[:, axis, 0, None, None] * grid[None, :]
        + matrices[:, axis, 1, None, None] * grid[:, None]
        + matrices[:, axis, 2, None, None]
        for axis in (0, 1)
    )
    inside = (x >= -0.5) & (x <= columns - 0.5) & (y >= -0.5) & (y <= rows - 0.5)
    x, y = np.clip(x, 0, columns - 1), np.clip(y, 0, rows - 1)
    left, top = np.minimum(x.astype(np.intp), columns - 2), np.minimum(y.astype(np.intp), rows - 2)
    across, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
    flat, place = pixels.ravel(), top * columns + left
    upper = flat[place] * (1 - across) + flat[place + 1] * across
    lower = flat[place + columns] * (1 - across) + flat[place + columns + 1] * across
    view = upper * (1 - down) + lower * down
    return np.stack([np.where(inside, view, 0), inside], axis=1).astype(np.float32)
