"""Nearer views of a film, for a hand that is not seen in the view of the whole: too small on a large plate, or one of two."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.transforms import Matrix

RIM: Final = 0.03  # of the film's side: its grey level is that of the empty plate
AWAY: Final = 0.12  # grey levels from the plate's, of the film's span, from which on something is there
SMALLEST: Final = 0.002  # share of the film that the largest thing on it must have: less is a marker
LARGEST: Final = 0.75  # of the film's side: what fills more was seen well enough in the view of the whole
ROOM: Final = 1.3  # side of the nearer view over that of the thing
LONG: Final = 1.25  # a film longer than that many times its width may hold two hands, one at each end
HALF: Final = 1.1  # side of the view of an end over half the film's length


def around(pixels: NDArray[np.float32], size: int) -> Matrix | None:
    """Map a view of `size` pixels to the square around the largest thing on a film; None where it fills the film, or there is none.

    `pixels` is the shrunk film, stretched to 0..1.
    """
    rows, columns = pixels.shape
    smooth = ndimage.uniform_filter(pixels, 3)
    there = ndimage.binary_opening(np.abs(smooth - plate(pixels)) > AWAY, iterations=2)
    things, number = ndimage.label(there)
    if not number:
        return None
    sizes = np.bincount(things.ravel())[1:]
    if sizes.max() < SMALLEST * pixels.size:
        return None
    down, across = ndimage.find_objects(things)[int(sizes.argmax())]
    side = ROOM * max(down.stop - down.start, across.stop - across.start)
    if side > LARGEST * max(rows, columns):
        return None
    return _square((across.start + across.stop - 1) / 2, (down.start + down.stop - 1) / 2, side, size)


def ends(shape: tuple[int, ...], size: int) -> tuple[Matrix, ...]:
    """Map views of `size` pixels to the squares at both ends of a long film, (rows, columns); none of one that is not long."""
    rows, columns = shape
    length, width = max(rows, columns), min(rows, columns)
    if length < LONG * width:
        return ()
    side = max(width, HALF * length / 2)
    along, across = ((side - 1) / 2, length - 1 - (side - 1) / 2), (width - 1) / 2
    return tuple(_square(*((across, at) if rows > columns else (at, across)), side, size) for at in along)


def _square(x: float, y: float, side: float, size: int) -> Matrix:
    """Map a view of `size` pixels to the square of that side around a place."""
    scale = side / size
    matrix: Matrix = np.hstack([scale * np.eye(2), (np.array([x, y]) - scale * (size - 1) / 2)[:, None]])
    return matrix


def plate(pixels: NDArray[np.float32]) -> np.float32:
    """Return the grey level of the empty plate: the median along the film's rim."""
    rim = max(1, round(RIM * min(pixels.shape)))
    border = np.concatenate(
        [pixels[:rim].ravel(), pixels[-rim:].ravel(), pixels[:, :rim].ravel(), pixels[:, -rim:].ravel()]
    )
    return np.float32(np.median(border))
