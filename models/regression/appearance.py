"""Bring a film to the appearance of the training thumbnails: 100 x 100, sampled nearest-neighbour, aspect lost.

The thumbnails are aliased on purpose; a film that is smoothed on its way down looks different to the network, which costs
months of error. So the film is sampled at single pixels, by the same rule by which the thumbnails were made.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SIDE: Final = 100
# Local contrast: mean and deviation over a window of this many thumbnail pixels, about the width of two fingers.
WINDOW: Final = 15
# How far the samples are moved, as shares of a cell down and to the right. Each offset shows the network other pixels of the
# same film; averaging over them evens out what aliasing adds to the estimate.
Offset = tuple[float, float]
CENTRE: Final[Offset] = (0.0, 0.0)
TOLERATED_DEGREES: Final = 30.0
TOLERATED_REST_DEGREES: Final = 15.0


def sample_indices(length: int, side: int = SIDE, offset: float = 0.0) -> NDArray[np.intp]:
    """Return which of `length` pixels nearest-neighbour sampling picks.

    The centre of each of the `side` cells, summed step by step in float64 as Pillow's scaling does; a closed formula
    differs from it by one pixel where a centre falls on a pixel edge. `offset` moves the samples by a share of a cell.
    """
    if length < 1:
        raise ValueError(f"length is {length}; at least one pixel is needed")
    step = length / side
    centres = np.cumsum(np.concatenate(([0.5 * step], np.full(side - 1, step)))) + offset * step
    indices: NDArray[np.intp] = np.floor(centres).astype(np.intp).clip(0, length - 1)
    return indices


def thumbnail(pixels: NDArray[np.generic], offset: Offset = CENTRE, side: int = SIDE) -> NDArray[np.generic]:
    """Squash a (rows, columns) film to (side, side) by nearest-neighbour sampling; the grey levels stay as they are."""
    rows, columns = pixels.shape
    return pixels[np.ix_(sample_indices(rows, side, offset[0]), sample_indices(columns, side, offset[1]))]


def channels(films: Tensor) -> Tensor:
    """Normalise thumbnails and add their local contrast.

    Parameters
    ----------
    films
        (n, 1, side, side) float32 in any linear grey scale.

    Returns
    -------
    Tensor
        (n, 2, side, side): grey levels with the film's 1st and 99th percentile at -1 and 1, and the deviation from the
        local mean in local standard deviations. Neither depends on the brightness and contrast of the source.
    """
    flat = films.flatten(1)
    rank = max(1, flat.shape[1] // 100)
    low = flat.kthvalue(rank, dim=1).values[:, None, None, None]
    high = flat.kthvalue(flat.shape[1] - rank + 1, dim=1).values[:, None, None, None]
    grey = ((films - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    # The box filter is separable; the edge is repeated so that a collimated border does not count as dark.
    half = WINDOW // 2
    padded = functional.pad(torch.cat((grey, grey * grey), dim=1), (half, half, half, half), mode="replicate")
    means = functional.avg_pool2d(functional.avg_pool2d(padded, (1, WINDOW), stride=1), (WINDOW, 1), stride=1)
    mean, square = means[:, :1], means[:, 1:]
    deviation = (square - mean * mean).clamp_min(0).sqrt()
    local = ((grey - mean) / (deviation + 0.05)).clamp(-3, 3) / 1.5
    return torch.cat((grey * 2 - 1, local), dim=1)


def upright(
    pixels: NDArray[np.float32], rotation_degrees: float, offset: Offset = CENTRE, side: int = SIDE
) -> NDArray[np.float32]:
    """Squash a film whose middle finger deviates counter-clockwise from pointing up, turned back.

    Up to `TOLERATED_DEGREES` the film is left as it is: the network has seen such films, and its exact appearance is worth
    more than the angle. Beyond, whole quarter turns keep every pixel; what then remains over `TOLERATED_REST_DEGREES` is
    sampled from the turned film, corners outside the film at its darkest level.
    """
    if abs(rotation_degrees) <= TOLERATED_DEGREES:
        return thumbnail(pixels, offset, side).astype(np.float32)
    quarters = round(rotation_degrees / 90)
    rest = rotation_degrees - 90 * quarters
    turned = np.rot90(pixels, k=-quarters)
    if abs(rest) <= TOLERATED_REST_DEGREES:
        return thumbnail(turned, offset, side).astype(np.float32)
    rows, columns = turned.shape
    cos, sin = np.cos(np.deg2rad(rest)), np.sin(np.deg2rad(rest))
    height = abs(rows * cos) + abs(columns * sin)
    width = abs(columns * cos) + abs(rows * sin)
    y, x = np.meshgrid(*((np.arange(side) + 0.5 + share) / side - 0.5 for share in offset), indexing="ij")
    y, x = y * height, x * width
    # A point of the upright film, turned counter-clockwise (rows run down), is where it lies on the film received.
    row = np.floor(y * cos - x * sin + rows / 2).astype(np.intp)
    column = np.floor(x * cos + y * sin + columns / 2).astype(np.intp)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    squashed: NDArray[np.float32] = turned[row.clip(0, rows - 1), column.clip(0, columns - 1)]
    squashed[~inside] = pixels.min()
    return squashed
