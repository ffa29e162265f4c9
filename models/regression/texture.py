"""Local binary patterns and their overlay (P4: rotation-invariant LBP, then LBP, then circular LBP).

Every operator compares the pixels on a circle with the one in the middle and reads the answers as a binary number. The
circle is sampled bilinearly; outside the film the grey level is 0. Each operator works on whole arrays, one point of the
circle at a time.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.metrics.ages import mae

Pattern = NDArray[np.uint32]  # (rows, columns) codes below 2 ** points
# Name -> (points on the circle, radius in pixels, whether the code is made independent of rotation).
OPERATORS: Final = {
    "rotation-invariant": (8, 1.0, True),
    "plain": (8, 1.0, False),
    "circular": (16, 2.0, False),
}
PAPER_ORDER: Final = ("rotation-invariant", "plain", "circular")


def local_binary_pattern(film: NDArray[np.floating], points: int, radius: float, *, invariant: bool = False) -> Pattern:
    """Return the code of each pixel of a (rows, columns) film.

    Bit p is set where the point at angle 2 pi p / points, counter-clockwise from the right, is at least as bright as the
    middle (Ojala et al. 2002). `invariant` takes the smallest code among all rotations of the bits.
    """
    if not 1 <= points <= 24:
        raise ValueError(f"points is {points}; 1 to 24 are possible")
    levels = np.asarray(film, dtype=np.float64)
    codes = np.zeros(levels.shape, dtype=np.uint32)
    margin = int(np.ceil(radius)) + 1
    padded = np.pad(levels, margin)
    for point in range(points):
        angle = 2 * np.pi * point / points
        # Rounded, so that a point that falls on a pixel is that pixel and not a blend with a weight of 1e-17.
        down, right = round(-radius * np.sin(angle), 5), round(radius * np.cos(angle), 5)
        codes |= (_shifted(padded, margin, down, right) >= levels).astype(np.uint32) << np.uint32(point)
    return _smallest_rotation(codes, points) if invariant else codes


def overlay(film: NDArray[np.floating], order: Sequence[str] = PAPER_ORDER, *, share: float = 1.0) -> NDArray[np.uint8]:
    """Apply operators one after the other, each to the grey levels that the one before left; codes scaled to 0..255.

    Parameters
    ----------
    share
        Of the codes in what an operator leaves, the rest are the grey levels it was given. 1 replaces them, the chain as P4 names
        it; less lays each texture over the film, as P4's "grey levels stay as they are" can be read.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share:g}; above 0 to 1 is possible")
    levels: NDArray[np.floating] = np.asarray(film, dtype=np.float64)
    for name in order:
        if name not in OPERATORS:
            raise ValueError(f"operator {name!r} is not one of {', '.join(OPERATORS)}")
        points, radius, invariant = OPERATORS[name]
        codes = local_binary_pattern(levels, points, radius, invariant=invariant)
        levels = np.floor(share * codes * (255 / (2**points - 1)) + (1 - share) * levels)
    return levels.astype(np.uint8)


def orders() -> tuple[tuple[str, ...], ...]:
    """Every order of the three operators, for the search by validation error."""
    return tuple(permutations(OPERATORS))


def best_order(errors: dict[tuple[str, ...], NDArray[np.float64]]) -> tuple[str, ...]:
    """Return the order with the lowest mean absolute error; `errors` holds the signed errors (n,) of each."""
    return min(errors, key=lambda order: (mae(errors[order]), order))


def _shifted(padded: NDArray[np.float64], margin: int, down: float, right: float) -> NDArray[np.float64]:
    """Bilinear sample of the film moved by (down, right); the offset is the same for all pixels, so four shifts do."""
    row, column = int(np.floor(down)), int(np.floor(right))
    part_down, part_right = down - row, right - column
    rows, columns = padded.shape[0] - 2 * margin, padded.shape[1] - 2 * margin

    def corner(more_down: int, more_right: int) -> NDArray[np.float64]:
        top, left = margin + row + more_down, margin + column + more_right
        return padded[top : top + rows, left : left + columns]

    upper = (1 - part_right) * corner(0, 0) + part_right * corner(0, 1)
    lower = (1 - part_right) * corner(1, 0) + part_right * corner(1, 1)
    return (1 - part_down) * upper + part_down * lower


def _smallest_rotation(codes: Pattern, points: int) -> Pattern:
    full = np.uint32(2**points - 1)
    smallest = codes.copy()
    for turn in range(1, points):
        turned = ((codes >> np.uint32(turn)) | (codes << np.uint32(points - turn))) & full
        np.minimum(smallest, turned, out=smallest)
    return smallest
