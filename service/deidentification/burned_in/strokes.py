"""Say where on a film small writing may be: tiles with many thin, sharp lines.

Large letters are found on the film reduced to half. Small ones, of up to about 30 pixels, need the full size, at which a look at the
whole film would cost most of a second. Their lines are at most 6 pixels wide and stand out of their surroundings at once; a
morphological top-hat shows such lines in a millisecond, and tiles without enough of them are left out.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.deidentification.burned_in.hand import Grey, Mask

WIDEST: Final = 7  # pixels: a line narrower than this is a stroke
CONTRAST: Final = (12, 24)  # grey levels of 256 by which it stands out: on a quiet film, on a noisy one
NOISE: Final = 4.0  # times the median top-hat of the film: what noise and trabeculae reach
WINDOW: Final = 32  # pixels: the square in which strokes are counted
FEWEST: Final = 48  # stroke pixels in it that call for a look; one letter of 14 pixels has about as many
TILE: Final = (
    704  # pixels: within it the recogniser works out of the processor's cache, twice as fast a pixel as on a whole film
)
OVERLAP: Final = 96  # pixels: a short line between two tiles is whole in one of them

Patch = tuple[int, int, int, int]  # x1 y1 x2 y2


def patches(film: Grey, where: Mask) -> list[Patch]:
    """Return the rectangles of a film (rows, columns) in which small writing may be, inside of `where`."""
    kernel = np.ones((WIDEST, WIDEST), np.uint8)
    bright, dark = (cv2.morphologyEx(film, kind, kernel) for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    lines = np.maximum(bright, dark)
    sample = lines[::4, ::4][where[::4, ::4]]
    contrast = np.clip(NOISE * float(np.median(sample)), *CONTRAST) if sample.size else CONTRAST[1]
    strokes: NDArray[np.float32] = ((lines > contrast) & where).astype(np.float32)
    counts = cv2.boxFilter(strokes, -1, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT)
    rows, columns = film.shape
    return [
        (x1, y1, x2, y2)
        for y1, y2 in _spans(rows)
        for x1, x2 in _spans(columns)
        if (counts[y1:y2, x1:x2] >= FEWEST).any()
    ]


def _spans(length: int) -> list[tuple[int, int]]:
    """Divide a side evenly into overlapping spans of at most a tile."""
    count = 1 if length <= TILE else -(-(length - OVERLAP) // (TILE - OVERLAP))
    step = (length - OVERLAP) / count
    return [(round(n * step), min(round(n * step + step) + OVERLAP, length)) for n in range(count)]
