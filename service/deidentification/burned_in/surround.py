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

from service.deidentification.burned_in.hand import Hand, Mask
from service.deidentification.burned_in.strokes import WIDEST

MARGIN: Final = 7  # pixels of the reduced film (3 % of its longer side) kept around the hand and its thin finger tips
WINDOW: Final = 9  # of the median, in pixels of the reduced film at half its size
QUIETEST: Final = 0.003  # part of the film's range: the noise of the fill where the background shows less
EVERY: Final = 4  # pixel of the surround is asked for its noise
BRIGHTEST: Final = 99.9  # percentile that readers scale by (models.pixels.levels)

Levels = NDArray[np.float32]


def blanked(levels: NDArray[Any], hand: Hand) -> tuple[NDArray[Any], Mask]:
    """Return the film (rows, columns) with its surround filled, in its own type, and where it was filled."""
    rows, columns = levels.shape
    small_rows, small_columns = hand.mask.shape
    half = (-(-small_columns // 2), -(-small_rows // 2))
    small = np.asarray(cv2.resize(levels.astype(np.float32), half, interpolation=cv2.INTER_AREA), np.float32)
    fill = _median(small)
    surround = (~hand.kept(MARGIN)).view(np.uint8)
    wide = cv2.resize(surround, (columns, rows), interpolation=cv2.INTER_NEAREST).view(np.bool_)
    blank = levels.copy()
    if not wide.any():
        return blank, wide
    before = levels[wide]
    smooth = cv2.resize(fill, (columns, rows), interpolation=cv2.INTER_LINEAR)[wide]
    # The noise is drawn, never copied: what was written there does not come back with it.
    apart = np.abs(before[::EVERY] - smooth[::EVERY])
    spread = max(1.48 * float(np.median(apart)), QUIETEST * float(np.ptp(small)))
    after = np.random.default_rng(0).standard_normal(len(smooth), dtype=np.float32)
    after *= np.float32(spread)
    after += smooth
    np.rint(after, out=after)
    np.clip(after, int(levels.min()), int(levels.max()), out=after)
    blank[wide] = after
    for sign in (1, -1):
        _anchor(blank, levels, wide, after, sign)
    return blank, wide


def _median(small: Levels) -> Levels:
    """Return the median of the window about each pixel (rows, columns); beyond the edges lie the pixels there."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(small, WINDOW // 2, "edge"), (WINDOW, WINDOW))
    middle = WINDOW**2 // 2
    return np.partition(windows.reshape(*small.shape, -1), middle)[..., middle]


def _anchor(blank: NDArray[Any], film: NDArray[Any], surround: Mask, filled: Levels, sign: int) -> None:
    """Put back, as a plain square, as many pixels of the extreme thousandth as the fill took away; `sign` -1: the darkest.

    Thin strokes are left out: they are writing, which was no part of the film and decides its scale no more.

    Parameters
    ----------
    filled
        The levels of the filled surround.
    """
    level = np.float32(np.percentile(film[::4, ::4], BRIGHTEST if sign > 0 else 100 - BRIGHTEST))
    extreme = np.greater_equal if sign > 0 else np.less_equal
    kernel = np.ones((WIDEST, WIDEST), np.uint8)
    gone = cv2.morphologyEx((extreme(film, level) & surround).view(np.uint8), cv2.MORPH_OPEN, kernel).view(np.bool_)
    count = int(np.count_nonzero(gone)) - int(np.count_nonzero(extreme(filled, level)))
    side = int(np.ceil(np.sqrt(max(count, 0))))
    if not 0 < side < min(film.shape) // 4:
        return
    place = _place(gone, surround, side)
    if place is not None:
        y, x = place
        blank[y : y + side, x : x + side] = round(float(np.median(film[gone])))


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
    square, corner = (side, side), (0, 0)
    counts = cv2.boxFilter(
        mask.view(np.uint8), cv2.CV_32F, square, anchor=corner, normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return np.asarray(counts, np.float32)
