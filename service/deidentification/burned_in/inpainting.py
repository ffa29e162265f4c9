"""Fill what was written over the hand from what lies beside it."""

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.deidentification.burned_in.hand import Mask
from service.deidentification.burned_in.recogniser import Box

RADIUS: Final = 3.0  # pixels of the neighbourhood that a filled pixel is made of (Telea 2004)
MARGIN: Final = 0.15  # of the height of a line, filled beyond its box
CONTEXT: Final = 16  # pixels around a box that the fill may look at


def area(box: Box, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return rows and columns of what is filled for one line of text."""
    x1, y1, x2, y2 = box
    margin = 2 + round(MARGIN * min(x2 - x1, y2 - y1))
    return (
        slice(max(y1 - margin, 0), min(y2 + margin, shape[0])),
        slice(max(x1 - margin, 0), min(x2 + margin, shape[1])),
    )


def filled(levels: NDArray[Any], boxes: Sequence[Box]) -> tuple[NDArray[np.float32], Mask]:
    """Return the film (rows, columns) with the boxes filled from their edges, and where it was filled."""
    film = levels.astype(np.float32)
    where = np.zeros(film.shape, np.uint8)
    for box in boxes:
        where[area(box, film.shape)] = 1
    for rows, columns in (area(box, film.shape) for box in boxes):
        near = (
            slice(max(rows.start - CONTEXT, 0), rows.stop + CONTEXT),
            slice(max(columns.start - CONTEXT, 0), columns.stop + CONTEXT),
        )
        if where[near].all():
            film[near] = np.median(film)
            continue
        patch = cv2.inpaint(
            np.ascontiguousarray(film[near]), np.ascontiguousarray(where[near]), RADIUS, cv2.INPAINT_TELEA
        )
        film[near] = np.where(where[near] > 0, patch, film[near])
    return film, where.astype(np.bool_)
