"""Blank what lies outside the hand with the level of the background there.

Black would be a new edge and a new histogram for whatever reads the film. The fill is a wide median of the reduced film: it keeps
the slope of the background and the edges of the collimation, and no letter of up to a quarter of its window survives it. Readers
take a background without noise for another film: the fill gets as much as there was, drawn afresh (benchmarks/README.md; without
it the age by the whole film moves twice as far). They scale a film by its brightest thousandth, which is often the lead marker:
as many pixels of its level as went are put back as one plain square where most of it was.
"""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from service.deidentification.burned_in.hand import Hand, Mask

MARGIN: Final = 7  # pixels of the reduced film (3 % of its longer side) kept around the hand and its thin finger tips
WINDOW: Final = 9  # of the median, in pixels of the reduced film at half its size
QUIETEST: Final = 0.003  # part of the film's range: the noise of the fill where the background shows less
BRIGHTEST: Final = 99.9  # percentile that readers scale by (models.pixels.levels)

Levels = NDArray[np.float32]


def blanked(levels: NDArray[Any], hand: Hand) -> tuple[Levels, Mask]:
    """Return the film (rows, columns) with its surround filled, and where it was filled."""
    rows, columns = levels.shape
    small_rows, small_columns = hand.mask.shape
    film = levels.astype(np.float32)
    half = (-(-small_columns // 2), -(-small_rows // 2))
    small = cv2.resize(film, half, interpolation=cv2.INTER_AREA)
    fill = median_filter(small, size=WINDOW, mode="nearest")
    surround = ~hand.kept(MARGIN)
    wide = cv2.resize(surround.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    smooth = np.asarray(cv2.resize(fill, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)
    # The noise is drawn, never copied: what was written there does not come back with it.
    spread = max(
        1.48 * float(np.median(np.abs(film - smooth)[wide])) if wide.any() else 0.0, QUIETEST * float(np.ptp(small))
    )
    grain = np.random.default_rng(0).standard_normal(film.shape, dtype=np.float32) * np.float32(spread)
    blank = np.where(wide, np.clip(smooth + grain, film.min(), film.max()), film)
    for sign in (1, -1):
        _anchor(blank, film, wide, sign)
    return blank, wide


def _anchor(blank: Levels, film: Levels, surround: Mask, sign: int) -> None:
    """Put back, as a plain square, as many pixels of the extreme thousandth as the fill took away; `sign` -1: the darkest."""
    level = np.float32(np.percentile(film[::4, ::4], BRIGHTEST if sign > 0 else 100 - BRIGHTEST))
    before = sign * film >= sign * level
    gone = before & surround
    count = int(before.sum()) - int((sign * blank >= sign * level).sum())
    side = int(np.ceil(np.sqrt(max(count, 0))))
    if not 0 < side < min(film.shape) // 4:
        return
    place = _place(gone, surround, side)
    if place is not None:
        y, x = place
        blank[y : y + side, x : x + side] = np.median(film[gone])


def _place(gone: Mask, surround: Mask, side: int) -> tuple[int, int] | None:
    """Return the corner of the square that lies in the surround and held most of what went, or None."""
    free = _sum(surround, side) > side * side - 0.5
    if not free.any():
        return None
    held = np.where(free, _sum(gone, side), -1)
    y, x = np.unravel_index(int(np.argmax(held)), held.shape)
    return int(y), int(x)


def _sum(mask: Mask, side: int) -> Levels:
    """Return how much of a mask the square to the right of and below each pixel holds."""
    return np.asarray(
        cv2.boxFilter(
            mask.astype(np.float32), -1, (side, side), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT
        ),
        np.float32,
    )
