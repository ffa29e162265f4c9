"""Fill what was written over the hand from what lies beside it."""

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.deidentification.burned_in.hand import Mask
from service.deidentification.burned_in.recogniser import Box

RADII: Final = (
    1.5,
    3.0,
    6.0,
    12.0,
    24.0,
    48.0,
)  # pixels: the nearest of them that sees enough of the edge gives a first fill
ENOUGH: Final = 0.05  # part of what a radius sees
ROUNDS: Final = 60  # of smoothing towards the surface that the edge spans; of four fills the nearest to unwritten films
MARGIN: Final = 0.15  # of the height of a line, filled beyond its box
CONTEXT: Final = 16  # pixels around a box that the fill may look at
BESIDE: Final = 17  # pixels of the square from which grain is taken
NORMAL: Final = 1.25  # a mean distance times this is a standard deviation


def area(box: Box, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return rows and columns of what is filled for one line of text."""
    x1, y1, x2, y2 = box
    margin = 2 + round(MARGIN * min(x2 - x1, y2 - y1))
    return (
        slice(max(y1 - margin, 0), min(y2 + margin, shape[0])),
        slice(max(x1 - margin, 0), min(x2 + margin, shape[1])),
    )


def whole(boxes: Sequence[Box], shape: tuple[int, ...]) -> Mask:
    """Return what is filled where lines are filled as boxes."""
    where = np.zeros(shape, np.bool_)
    for box in boxes:
        where[area(box, shape)] = True
    return where


def fill(film: NDArray[Any], boxes: Sequence[Box], where: Mask, limits: tuple[int, int]) -> None:
    """Fill a film (rows, columns) in place where `where` says, in and about boxes, from its edges with the grain that lies beside.

    Parameters
    ----------
    limits
        Lowest and highest level that the film may have.
    """
    rng = np.random.default_rng(0)
    for box in boxes:
        rows, columns = area(box, film.shape)
        near = (
            slice(max(rows.start - CONTEXT, 0), rows.stop + CONTEXT),
            slice(max(columns.start - CONTEXT, 0), columns.stop + CONTEXT),
        )
        hole = where[near]
        if not hole.any():
            continue
        if hole.all():
            film[near] = round(float(np.median(film)))
            continue
        before = film[near].astype(np.float32)
        grain = _grain(before, hole) * rng.standard_normal(before.shape, dtype=np.float32)
        film[near][hole] = np.clip(np.rint((_bridged(before, hole) + grain)[hole]), *limits)


def _bridged(part: NDArray[np.float32], hole: Mask) -> NDArray[np.float32]:
    """Return a part with its hole bridged by a smooth surface from its edges."""
    seen = (~hole).astype(np.float32)
    out, left = np.where(hole, np.float32(part[~hole].mean()), part), hole.copy()
    for radius in RADII:
        weight = cv2.GaussianBlur(seen, (0, 0), radius)
        near = left & (weight > ENOUGH)
        out[near] = (cv2.GaussianBlur(part * seen, (0, 0), radius) / np.maximum(weight, ENOUGH))[near]
        left &= ~near
        if not left.any():
            break
    for _ in range(ROUNDS):
        out[hole] = cv2.blur(out, (3, 3))[hole]
    return out


def _grain(part: NDArray[np.float32], hole: Mask) -> NDArray[np.float32]:
    """Return the noise beside each pixel: a smooth fill on a grainy film would show the letters as smoothness, and the reverse."""
    size = (BESIDE, BESIDE)
    apart = np.where(hole, np.float32(0), np.abs(part - cv2.medianBlur(part, 3)))
    counted = cv2.boxFilter((~hole).astype(np.float32), -1, size, normalize=False)
    whole = float(apart.sum() / max(int((~hole).sum()), 1))
    mean = np.where(counted > 0, cv2.boxFilter(apart, -1, size, normalize=False) / np.maximum(counted, 1), whole)
    return np.asarray(NORMAL * mean, np.float32)
