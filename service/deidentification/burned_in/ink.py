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
BAND: Final = 0.015  # of the film's range, or of the contrast where that is more: how far levels of one ink differ
LEVELS_TRIED: Final = 80
# Part of the strokes that has one level, less the part beyond it (ink is the end of the scale there), and part of a stroke's height
# that lies between the neighbours of its edge; by sign: what is dark on bright is more often the gap between two bones.
LIMITS: Final = {1: ((0.3, 0.75), (0.55, 0.55)), -1: ((0.3, 0.9), (0.8, 0.75))}
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
SIGN: Final = 0.75  # of its height: parts of signs that tell which way a line goes, where that is not clear
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
    found = _followed(film, box, ink, reach, _corridor(box))
    if _grows_to_every_side(found[2], box):
        # About a single sign there may be ground of the level of the ink. A line goes one way, and its signs are as large as this one.
        ways = [_followed(film, box, ink, reach, _along(box, upright=upright), least=SIGN) for upright in (False, True)]
        _, _, (x1, y1, x2, y2) = max(ways, key=lambda way: int(np.count_nonzero(way[0])))
        found = _followed(film, box, ink, reach, (x1 - SKIRT, y1 - SKIRT, x2 + SKIRT, y2 + SKIRT))
    filled, place, whole = found
    if not _grows_to_every_side(whole, box):
        return found
    x1, y1, x2, y2 = box
    rows, columns = place
    filled[: y1 - rows.start] = filled[y2 - rows.start :] = False
    filled[:, : x1 - columns.start] = filled[:, x2 - columns.start :] = False
    return filled, place, box


def _grows_to_every_side(whole: Box, box: Box) -> bool:
    """Whether what was followed from a box is no line but a ground that has the level of the ink."""
    short = min(whole[2] - whole[0], whole[3] - whole[1])
    return short > TALLER * max(box[2] - box[0], box[3] - box[1])


def _followed(
    film: NDArray[Any], box: Box, ink: Ink, reach: float, corridor: Box, *, least: float = 0
) -> tuple[Mask, tuple[slice, slice], Box]:
    """Return what is written with an ink in a box and, within a corridor, about it, as `strokes` does.

    Parameters
    ----------
    least
        Part of the height of the box that a connected part beyond it must have.
    """
    rows, columns = film.shape
    x1, y1, x2, y2 = box
    height, far = min(x2 - x1, y2 - y1), _far(box)
    left, top, right, bottom = max(x1 - far, 0), max(y1 - far, 0), min(x2 + far, columns), min(y2 + far, rows)
    part = film[top:bottom, left:right].astype(np.float32) * ink.sign
    lines = _tophat(part, ink.window)
    inside, near = np.zeros(part.shape, np.bool_), np.zeros(part.shape, np.bool_)
    inside[y1 - top : y2 - top, x1 - left : x2 - left] = True
    a, b, c, d = corridor
    near[max(b - top, 0) : max(d - top, 0), max(a - left, 0) : max(c - left, 0)] = True
    # Beyond the box the line may cross brighter bone, where it stands out by less than where it was seen.
    beyond = max(ink.foot, min(BEYOND * ink.contrast, CONTRAST * reach))
    foot = np.where(inside, np.float32(ink.foot), np.float32(beyond))
    small = np.ones((3, 3), np.uint8)
    edges = cv2.dilate(part, small) - cv2.erode(part, small) > CLEAR * lines
    core = near & (lines > foot) & (np.abs(part - ink.sign * ink.level) <= _band(ink.contrast, reach))
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(core.astype(np.uint8), connectivity=8)
    signs = statistics[:, cv2.CC_STAT_AREA] >= SPECK
    longer = statistics[:, cv2.CC_STAT_WIDTH : cv2.CC_STAT_HEIGHT + 1].max(axis=1)
    sharp = np.bincount(labels[edges], minlength=len(signs)) > EDGE * statistics[:, cv2.CC_STAT_AREA]
    signs &= sharp & (longer >= least * height) & (longer <= LONGEST * height)
    signs[0] = False
    core = signs[labels] | (core & inside)
    gap = max(round(GAP * height), 4) | 1
    _, joined = cv2.connectedComponents(cv2.dilate(core.astype(np.uint8), np.ones((gap, gap), np.uint8)))
    chain = core & np.isin(joined, np.unique(joined[core & inside]))
    skirt = np.ones((SKIRT, SKIRT), np.uint8)
    beside = cv2.dilate(chain.astype(np.uint8), skirt).view(np.bool_)
    written = chain | ((lines > ink.foot) & beside) | ((lines > HALF * ink.contrast) & inside)
    filled = cv2.dilate(written.astype(np.uint8), skirt).view(np.bool_)
    ys, xs = np.flatnonzero((chain | inside).any(1)), np.flatnonzero((chain | inside).any(0))
    whole = (left + int(xs[0]), top + int(ys[0]), left + int(xs[-1]) + 1, top + int(ys[-1]) + 1)
    return filled, np.s_[top:bottom, left:right], whole


def _far(box: Box) -> int:
    """Return how far a line is followed."""
    return min(REACH * min(box[2] - box[0], box[3] - box[1]), FURTHEST)


def _corridor(box: Box) -> Box:
    """Return where a line may go on: along it; to every side of what may be a part of one sign."""
    x1, y1, x2, y2 = box
    if is_square(box):
        around = 2 * max(x2 - x1, y2 - y1)
        return x1 - around, y1 - around, x2 + around, y2 + around
    return _along(box, upright=y2 - y1 >= x2 - x1)


def _along(box: Box, *, upright: bool) -> Box:
    """Return where a line that runs upright or across may go on."""
    x1, y1, x2, y2 = box
    far, beside = _far(box), round(BESIDE * min(x2 - x1, y2 - y1))
    across, down = (beside, far) if upright else (far, beside)
    return x1 - across, y1 - down, x2 + across, y2 + down


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
    level, part_of_it = _level(np.sort(part[strong]), _band(contrast, reach))
    small = np.ones((3, 3), np.uint8)
    steps = cv2.dilate(part, small) - cv2.erode(part, small)
    edge = strong & (cv2.erode(strong.astype(np.uint8), small) == 0)
    sharp = float(np.median(steps[edge] / np.maximum(cv2.dilate(lines, small)[edge], 1e-6)))
    beside = cv2.dilate(strong.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    noise = float(np.median(steps[beside])) / contrast if beside.any() else 0.0
    if noise > NOISE or not any(part_of_it >= level_part and sharp >= least for level_part, least in LIMITS[sign]):
        return None
    return Ink(sign, sign * level, contrast, max(FOOT, GRAIN * noise) * contrast, window)


def _band(contrast: float, reach: float) -> float:
    """Return how far levels of one ink differ: small letters have more levels between their ground and their ink on a dim film."""
    return BAND * max(contrast, reach)


def _level(values: Levels, band: float) -> tuple[float, float]:
    """Return the level (of sorted ones) at which most of them lie, less those beyond it, and that part of all."""
    tried = np.unique(np.round(values / (band / 2)))[-LEVELS_TRIED:] * (band / 2)
    low = np.searchsorted(values, tried - band, "left")
    high = np.searchsorted(values, tried + band, "right")
    parts = (2 * high - low - len(values)) / len(values)
    best = int(np.argmax(parts))
    return float(tried[best]), float(parts[best])
