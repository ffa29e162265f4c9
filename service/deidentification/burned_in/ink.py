"""Tell writing that a device put into the pixels from bones that look like it, and follow its strokes.

What is written into a picture has one level and edges of one pixel; what the detector saw has neither, for it passed a focal spot, a
screen and a grid. Of 84 lines of 14 to 60 pixels on 42 phantoms (seeds 1000 to 1039, 54, 63) all met the limits below on their own
place and none on the same place of the unwritten film, nor did the joints that the recogniser takes for signs. A JPEG or a blur of
the film takes this away from many a line, so ink is a reason to believe the recogniser, and its absence one to ask for more, never
the only judge.
"""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.deidentification.burned_in.hand import Mask
from service.deidentification.burned_in.recogniser import Box

STROKE: Final = 0.3  # of the height of a line: wider than its strokes are
WINDOWS: Final = (5, 31)  # pixels of the top-hat that shows them
TALLEST: Final = 0.99  # quantile of the top-hat: the contrast of a line
HALF: Final = 0.5  # of the contrast from which on a pixel is a stroke for certain,
FOOT: Final = 0.1  # and from which on it may be one, over bright bone,
BEYOND: Final = 0.3  # the same, where the line goes on beyond what the recogniser saw,
CLEAR: Final = 0.7  # and so much of its height must lie between neighbours
EDGE: Final = 0.4  # for so many of the pixels of a sign there: the edge of a bone may have its level,
GRAIN: Final = 1.0  # times what neighbours differ by beside a stroke, at least
BAND: Final = 0.015  # of the film's range: how far levels of one ink differ
LEVELS_TRIED: Final = 80
# Part of the strokes that has one level, less the part beyond it (ink is the end of the scale there), and part of a stroke's height
# that lies between the neighbours of its edge; by sign: what is dark on bright is more often the gap between two bones.
LIMITS: Final = {1: ((0.3, 0.75), (0.55, 0.55)), -1: ((0.3, 0.9),)}
NOISE: Final = 0.3  # of the contrast: most that the neighbours beside a stroke differ
CONTRAST: Final = 0.08  # of the film's range: least contrast
FEWEST: Final = 12  # pixels of strokes
REACH: Final = 8  # times the height of a line to which its strokes are followed,
FURTHEST: Final = 320  # pixels at most,
LINE: Final = 2.0  # times as long as high: which way it runs can be told,
BESIDE: Final = 0.35  # of its height, beside it: signs reach as far
GAP: Final = 0.6  # times its height between two signs,
TALLER: Final = 1.5  # times the longer side of the place, that the height of the whole line may be
SPECK: Final = 4  # pixels: less is noise
LONGEST: Final = 2.5  # times its height: a longer connected part outside the place is a bone's edge, no sign
SKIRT: Final = 5  # pixels of the square by which strokes are grown: what the interpolation of the letters smeared
WHOLE: Final = 0.7  # of a box: strokes that fill more of it tell nothing from a box

Levels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ink:
    """How a line is written.

    Parameters
    ----------
    sign
        1 where it is brighter than its ground, -1 where it is darker.
    level, contrast, foot
        In levels of the film: where it is written, by how much it stands out, and by how much over bright bone at least.
    window
        Pixels of the top-hat that shows its strokes.
    """

    sign: int
    level: float
    contrast: float
    foot: float
    window: int


def is_square(box: Box) -> bool:
    """Whether a place is too square to tell which way its line runs."""
    short, long = sorted((box[2] - box[0], box[3] - box[1]))
    return long < LINE * short


def of(film: NDArray[Any], box: Box, reach: float) -> Ink | None:
    """Return the ink of a place on a film (rows, columns) of a range `reach`, or None where nothing there is like ink."""
    x1, y1, x2, y2 = box
    part = film[y1:y2, x1:x2].astype(np.float32)
    window = _window(box)
    found = (_of(part * sign, sign, window, reach) for sign in (1, -1))
    return next((ink for ink in found if ink is not None), None)


def strokes(film: NDArray[Any], box: Box, ink: Ink, reach: float) -> tuple[Mask, tuple[slice, slice], Box]:
    """Return what is written with an ink in and about a box, of which part of the film that is, and the box of all of it.

    Signs of the same level that stand no further apart than signs do belong to the line, wherever the recogniser saw it end.
    """
    rows, columns = film.shape
    x1, y1, x2, y2 = box
    height = min(x2 - x1, y2 - y1)
    far = min(REACH * height, FURTHEST)
    left, top, right, bottom = max(x1 - far, 0), max(y1 - far, 0), min(x2 + far, columns), min(y2 + far, rows)
    part = film[top:bottom, left:right].astype(np.float32) * ink.sign
    lines = _tophat(part, ink.window)
    inside, corridor = np.zeros(part.shape, np.bool_), np.zeros(part.shape, np.bool_)
    inside[y1 - top : y2 - top, x1 - left : x2 - left] = True
    a, b, c, d = _corridor(box, far)
    corridor[max(b - top, 0) : d - top, max(a - left, 0) : c - left] = True
    foot = np.where(inside, np.float32(ink.foot), np.float32(max(ink.foot, BEYOND * ink.contrast)))
    small = np.ones((3, 3), np.uint8)
    edges = cv2.dilate(part, small) - cv2.erode(part, small) > CLEAR * lines
    core = corridor & (lines > foot) & (np.abs(part - ink.sign * ink.level) <= BAND * reach)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(core.astype(np.uint8), connectivity=8)
    signs = statistics[:, cv2.CC_STAT_AREA] >= SPECK
    long = statistics[:, cv2.CC_STAT_WIDTH : cv2.CC_STAT_HEIGHT + 1].max(axis=1) > LONGEST * height
    sharp = np.bincount(labels[edges], minlength=len(signs)) > EDGE * statistics[:, cv2.CC_STAT_AREA]
    signs &= sharp & ~long
    signs[0] = False
    core = signs[labels] | (core & inside)
    gap = max(round(GAP * height), 4) | 1
    _, joined = cv2.connectedComponents(cv2.dilate(core.astype(np.uint8), np.ones((gap, gap), np.uint8)))
    chain = core & np.isin(joined, np.unique(joined[core & inside]))
    near = cv2.dilate(chain.astype(np.uint8), np.ones((SKIRT, SKIRT), np.uint8)).astype(np.bool_)
    written = chain | ((lines > ink.foot) & near) | ((lines > HALF * ink.contrast) & inside)
    filled = cv2.dilate(written.astype(np.uint8), np.ones((SKIRT, SKIRT), np.uint8)).view(np.bool_)
    place = np.s_[top:bottom, left:right]
    ys, xs = np.flatnonzero((chain | inside).any(1)), np.flatnonzero((chain | inside).any(0))
    whole = (left + int(xs[0]), top + int(ys[0]), left + int(xs[-1]) + 1, top + int(ys[-1]) + 1)
    if min(whole[2] - whole[0], whole[3] - whole[1]) > TALLER * max(x2 - x1, y2 - y1):
        # What grows to every side is no line but a ground that has the level of the ink.
        filled[: y1 - top] = filled[y2 - top :] = False
        filled[:, : x1 - left] = filled[:, x2 - left :] = False
        return filled, place, box
    return filled, place, whole


def _corridor(box: Box, far: int) -> Box:
    """Return where a line may go on: along it; to every side of what may be a part of one sign."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    short, long = min(width, height), max(width, height)
    if is_square(box):
        return x1 - 2 * long, y1 - 2 * long, x2 + 2 * long, y2 + 2 * long
    beside = round(BESIDE * short)
    return (
        (x1 - far, y1 - beside, x2 + far, y2 + beside)
        if width > height
        else (x1 - beside, y1 - far, x2 + beside, y2 + far)
    )


def _window(box: Box) -> int:
    height = min(box[2] - box[0], box[3] - box[1])
    return int(np.clip(round(STROKE * height), *WINDOWS)) | 1


def _tophat(part: Levels, window: int) -> Levels:
    return np.asarray(cv2.morphologyEx(part, cv2.MORPH_TOPHAT, np.ones((window, window), np.uint8)), np.float32)


def _of(part: Levels, sign: int, window: int, reach: float) -> Ink | None:
    """Return the ink of what is bright in a part, or None."""
    lines = _tophat(part, window)
    contrast = float(np.quantile(lines, TALLEST))
    strong = lines > HALF * contrast
    if contrast < CONTRAST * reach or int(strong.sum()) < FEWEST:
        return None
    level, part_of_it = _level(np.sort(part[strong]), BAND * reach)
    small = np.ones((3, 3), np.uint8)
    steps = cv2.dilate(part, small) - cv2.erode(part, small)
    edge = strong & (cv2.erode(strong.astype(np.uint8), small) == 0)
    sharp = float(np.median(steps[edge] / np.maximum(cv2.dilate(lines, small)[edge], 1e-6)))
    beside = cv2.dilate(strong.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    noise = float(np.median(steps[beside])) / contrast if beside.any() else 0.0
    if noise > NOISE or not any(part_of_it >= level_part and sharp >= least for level_part, least in LIMITS[sign]):
        return None
    return Ink(sign, sign * level, contrast, max(FOOT, GRAIN * noise) * contrast, window)


def _level(values: Levels, band: float) -> tuple[float, float]:
    """Return the level (of sorted ones) at which most of them lie, less those beyond it, and that part of all."""
    tried = np.unique(np.round(values / (band / 2)))[-LEVELS_TRIED:] * (band / 2)
    low = np.searchsorted(values, tried - band, "left")
    high = np.searchsorted(values, tried + band, "right")
    parts = (2 * high - low - len(values)) / len(values)
    best = int(np.argmax(parts))
    return float(tried[best]), float(parts[best])
