"""Find the hand on a film from its pixels alone.

The film is reduced to 256 pixels on its longer side. What is brighter than the background, a surface of second order fitted to the
pixels that are not, is foreground; of its connected parts the one that has the shape of a hand is the hand. Frames and collimation
are left aside: an outer margin is not looked at, rows and columns of foreground at the edge are cut off, and a part that is itself
a rectangle is the exposed field, in which the search begins anew. A film on which nothing has this shape has no hand, and nothing of
it is blanked.
"""

from dataclasses import dataclass
from typing import Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE: Final = 256  # of the reduced film, its longer side
MARGIN: Final = 8  # of the reduced film, not looked at: frames of scanners and cassettes lie here
FITS: Final = 5  # rounds of background fit and threshold
NOISE: Final = 4.0  # robust standard deviations above the background
CONTRAST: Final = 0.05  # and at least this part of the film's range
PURER: Final = 0.4  # times that spread is what is left where things a little brighter were kept out of the fit: they were no background
ORDER: Final = 2  # of the surface: its terms are the products of powers of row and column up to it
TERMS: Final = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
CLIPS: Final = 3  # rounds of keeping out what is
SLIGHTLY: Final = 1.5  # standard deviations above the fit
AREAS: Final = (0.04, 0.75)  # of the searched field, that a hand fills
SOLIDITY: Final = (0.3, 0.93)  # area over that of the convex hull: fingers leave gaps
RECTANGLE: Final = 0.88  # a part that fills its bounding box this far is the exposed field
SIDES_TOUCHED: Final = 2  # by a hand with its forearm, at most
NEAR: Final = 6  # pixels of the reduced film: no wider is the gap of a joint at which a finger is cut off
PIECE: Final = 0.001  # of the field: a smaller bright part beside the hand is a speck
FIELD_CONTRAST: Final = (
    0.04  # of the film's range, by which the exposed field differs from the shadow of the collimator
)
ACROSS: Final = 0.35  # of a row that differs from the border: an edge of the field,
STRAY: Final = 0.06  # if it comes about from less than this
ALONG: Final = 0.8  # of the field beside it differs, at one edge at least: what runs along less is the side of a hand
BESIDE: Final = 8  # pixels of the reduced film, in which that is asked
SOFT: Final = 6  # within so many pixels of the reduced film;
INTO: Final = 3  # so far beyond it nothing is left of a narrow penumbra;
WIDEST: Final = 14  # a wider one reaches so far at most,
SETTLED: Final = (
    0.015  # of what the field differs from the border: where a row differs less from the next one it has ended
)
SPILL: Final = 16  # pixels of the reduced film: bones go on into the penumbra of the collimator
SMALLEST_FIELD: Final = 0.12  # of the film
STRANGE: Final = 0.025  # of the field: other bright parts of at least this area are no marker, perhaps a finger cut off
BONE_DARK_WEIGHT: Final = 0.7  # a film whose header lies about its polarity is the rarer case

Mask = NDArray[np.bool_]
Grey = NDArray[np.uint8]
Reduced = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hand:
    """The hand on the reduced film.

    Parameters
    ----------
    mask
        (rows, columns) of the reduced film: the hand with everything its outline encloses.
    strange
        Other large bright parts, which may belong to it; they are never blanked.
    bone_dark
        Whether the film shows bone dark on a bright background.
    """

    mask: Mask
    strange: Mask
    bone_dark: bool = False

    def kept(self, margin: int) -> Mask:
        """Return what must not be blanked: the hand and strange parts, dilated by `margin` reduced pixels."""
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
        kept: Mask = cv2.dilate((self.mask | self.strange).astype(np.uint8), kernel).astype(np.bool_)
        return kept


@dataclass(frozen=True, slots=True)
class _Candidate:
    mask: Mask
    strange: Mask
    score: float

    def within(self, shape: tuple[int, ...], top: int, left: int, *, spill: int = 0) -> Self:
        """Return it as part of a larger film; what touches the edge of the part goes on beyond it for `spill` pixels."""
        rows, columns = self.mask.shape
        around = [
            (min(spill, top), min(spill, shape[0] - top - rows)),
            (min(spill, left), min(spill, shape[1] - left - columns)),
        ]
        top, left = top - around[0][0], left - around[1][0]
        mask, strange = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        for target, part in ((mask, self.mask), (strange, self.strange)):
            wider = _spilled(np.pad(part, around), around)
            target[top : top + wider.shape[0], left : left + wider.shape[1]] = wider
        return type(self)(mask, strange, self.score)


def _spilled(mask: Mask, around: list[tuple[int, int]]) -> Mask:
    """Let what touches the edge of a part go on into what was put around it, wider by a pixel to either side with each step.

    A finger that the edge cuts may lean to any side beyond it.
    """
    for turns, steps in enumerate((around[0][0], around[1][1], around[0][1], around[1][0])):
        turned = np.rot90(mask, turns)  # a view: the side in question is at the top
        for row in range(steps - 1, -1, -1):
            before = turned[row + 1]
            turned[row] |= before | np.append(before[1:], False) | np.insert(before[:-1], 0, False)
    return mask


def reduced_shape(rows: int, columns: int) -> tuple[int, int]:
    """Return rows and columns of the reduced film."""
    scale = SIDE / max(rows, columns)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def find(film: Grey) -> Hand | None:
    """Return the hand on a film (rows, columns), bone bright as its header says, or None where nothing has its shape."""
    rows, columns = reduced_shape(*film.shape)
    if min(rows, columns) < 6 * MARGIN:
        return None
    small = cv2.medianBlur(cv2.resize(film, (columns, rows), interpolation=cv2.INTER_AREA), 3).astype(np.float32)
    bright = _in_field(small)
    # No score is above 1: what shows bright as clearly as this is not outdone.
    sure = bright is not None and bright.score >= BONE_DARK_WEIGHT
    dark = None if sure else _in_field(255 - small)
    found, bone_dark = bright, False
    if dark is not None and (bright is None or dark.score * BONE_DARK_WEIGHT > bright.score):
        found, bone_dark = dark, True
    if found is None:
        return None
    return Hand(found.mask, found.strange, bone_dark)


def _in_field(small: Reduced) -> _Candidate | None:
    """Look for the hand in the exposed field where its edges can be seen, else, or where it is not there, everywhere."""
    rows, columns = small.shape
    top, bottom, left, right = _exposed(small)
    found = None
    if (bottom - top, right - left) != (rows - 2 * MARGIN, columns - 2 * MARGIN):
        found = _search(small[top:bottom, left:right])
    if found is None:
        top, bottom, left, right = MARGIN, rows - MARGIN, MARGIN, columns - MARGIN
        found = _search(small[top:bottom, left:right])
    # A forearm goes on to the edge of the film; so does whatever else reaches the margin.
    return None if found is None else found.within(small.shape, top, left, spill=SPILL)


def _exposed(small: Reduced) -> tuple[int, int, int, int]:
    """Return the field between the collimator's edges: where a row or column of the border's level is followed by one that is not.

    Towards a finger what differs from the border grows slowly, at an edge of the field most of the row differs at once. Without the
    field the shadow of the collimator is taken for the background, and against it the whole field is foreground, or of a dim hand
    nothing but its bones. Where no edge is seen the margin is left out.
    """
    ring = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    level = float(np.median(ring))
    low, high = (float(value) for value in np.percentile(small, (1, 99)))
    away = np.abs(small - level) > max(FIELD_CONTRAST * (high - low), 3 * _spread(ring - level))
    rows, columns = small.shape
    top, bottom = _edge(small, away), rows - _edge(small[::-1], away[::-1])
    left, right = _edge(small.T, away.T), columns - _edge(small.T[::-1], away.T[::-1])
    field = top, bottom, left, right
    if (bottom - top) * (right - left) < SMALLEST_FIELD * small.size or not _runs_along(away, field):
        return MARGIN, rows - MARGIN, MARGIN, columns - MARGIN
    return field


def _runs_along(away: Mask, field: tuple[int, int, int, int]) -> bool:
    """Whether one of the edges seen runs all along the field.

    The forearm, the wrist and a finger may lie in one line, and then the side of the hand begins as suddenly as a field does.
    """
    rows, columns = away.shape
    top, bottom, left, right = field
    across, down = away[:, left:right].mean(1), away[top:bottom].mean(0)
    beside = [
        across[top : top + BESIDE] if top != MARGIN else (),
        across[bottom - BESIDE : bottom] if bottom != rows - MARGIN else (),
        down[left : left + BESIDE] if left != MARGIN else (),
        down[right - BESIDE : right] if right != columns - MARGIN else (),
    ]
    return any(len(part) > 0 and float(np.median(part)) >= ALONG for part in beside)


def _edge(small: Reduced, away: Mask) -> int:
    """Return after how many rows the field begins and the penumbra has ended; the margin where no edge is seen.

    What stays of a bright penumbra is the brightest part of the field: against it the soft tissue of fingers is background.
    """
    profile = away.mean(1)
    first = int(np.argmax(profile >= ACROSS))
    stray = np.flatnonzero(profile[:first] >= STRAY)
    begins = int(stray[0]) if stray.size else first
    if begins == 0 or first - begins > SOFT:
        return MARGIN
    levels = np.median(small[first + INTO : first + WIDEST + 2], axis=1)
    fall = float(np.median(small[0]) - levels[-1]) if levels.size > 1 else 0.0
    # From a dark border the side of a hand rises as a penumbra does.
    falling = np.flatnonzero(-np.diff(levels) > SETTLED * fall) if fall > 0 else np.empty(0)
    return first + INTO + (int(falling[-1]) + 1 if falling.size else 0)


def _search(small: Reduced, depth: int = 0) -> _Candidate | None:
    """Look for the hand in a field of the reduced film; bone is bright in it."""
    if min(small.shape) < 4 * MARGIN:
        return None
    foreground = _foreground(small)
    if foreground is None:
        return None
    top, bottom, left, right = _field(foreground)
    inside = np.zeros(foreground.shape, np.uint8)
    inside[top:bottom, left:right] = foreground[top:bottom, left:right]
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    largest = [int(label) for label in np.argsort(-statistics[1:count, cv2.CC_STAT_AREA])[:3] + 1]
    best = None
    for label in largest:
        x, y, width, height, area = (int(value) for value in statistics[label])
        if area > RECTANGLE * width * height and width * height > 0.15 * small.size and depth < 2:
            edge = max(2, round(0.015 * max(width, height)))
            place = np.s_[y + edge : y + height - edge, x + edge : x + width - edge]
            nested = _search(small[place], depth + 1)
            if nested is not None:
                return nested.within(small.shape, y + edge, x + edge)
            continue
        touched = (y <= top) + (y + height >= bottom) + (x <= left) + (x + width >= right)
        shape = _shape(labels == label, touched)
        if shape is not None and (best is None or shape[1] > best[1]):
            best = (*shape, label)
    if best is None:
        if (bottom - top) * (right - left) < 0.9 * small.size and depth < 2:
            # A bright collimation decided the scale: look again without it.
            nested = _search(small[top:bottom, left:right], depth + 1)
            return None if nested is None else nested.within(small.shape, top, left)
        return None
    mask, score, chosen = best
    areas = statistics[:, cv2.CC_STAT_AREA]
    other = [label for label in largest if label != chosen and areas[label] > STRANGE * small.size]
    pieces = np.isin(labels, 1 + np.flatnonzero(areas[1:] > PIECE * small.size))
    strange = np.isin(labels, other) | _near(mask, pieces)
    cut = np.s_[top:bottom, left:right]
    return _Candidate(mask[cut], (strange & ~mask)[cut], score).within(small.shape, top, left, spill=SPILL)


def _near(mask: Mask, pieces: Mask) -> Mask:
    """Return the pieces that follow one another from the hand with no more than a joint between them: fingers cut off."""
    kernel = np.ones((2 * (NEAR // 2) + 1,) * 2, np.uint8)
    _, joined = cv2.connectedComponents(cv2.dilate((mask | pieces).astype(np.uint8), kernel))
    chain: Mask = pieces & np.isin(joined, np.unique(joined[mask]))
    return chain


def _foreground(small: Reduced) -> Mask | None:
    """Return what is brighter than a smooth background, or None where no background is left to fit."""
    low, high = (float(level) for level in np.percentile(small, (2, 95)))
    contrast = max(high - low, 1.0)
    # A marker of lead is brighter than any bone and must not decide the threshold.
    clipped = np.clip(small, low - 0.2 * contrast, high + 0.1 * contrast)
    scaled = np.clip((clipped - low) / contrast * 255, 0, 255).astype(np.uint8)
    level, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_OTSU)
    foreground: Mask = scaled > level
    levels = clipped.astype(np.float64)
    found, spread = _against_background(levels, foreground, CONTRAST * contrast, below=False)
    nearer, narrow = _against_background(levels, foreground, CONTRAST * contrast, below=True)
    if narrow is not None and (spread is None or narrow < PURER * spread):
        # Dim fingers beside a bright forearm were taken for background: what is brighter than most of it tells nothing.
        return nearer
    return None if spread is None else found


def _against_background(
    levels: NDArray[np.float64], foreground: Mask, least: float, *, below: bool
) -> tuple[Mask, float | None]:
    """Fit the background and take what is brighter for foreground, again and again; return it and the spread of the last round.

    Parameters
    ----------
    below
        Whether the spread is that of what is darker than the fit, and what is a little brighter is left out.
    """
    last: float | None = None
    for _ in range(FITS):
        top, bottom, left, right = _field(foreground)
        use = np.zeros(levels.shape, np.bool_)
        grown = cv2.dilate(foreground.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.bool_)
        use[top:bottom, left:right] = ~grown[top:bottom, left:right]
        if use.sum() < 0.05 * levels.size:
            break
        for _ in range(CLIPS if below else 1):
            residual = levels - _surface(levels, use)
            spread = _spread(residual[use & (residual < 0)] if below else residual[use])
            use &= (residual < (SLIGHTLY if below else 3) * spread + 1) & (residual > -3 * spread - 1)
        residual = levels - _surface(levels, use)
        last = _spread(residual[use])
        before, foreground = foreground, residual > max(NOISE * last, least)
        if np.array_equal(before, foreground):
            break
    return foreground, last


def _surface(levels: NDArray[np.float64], use: Mask) -> NDArray[np.float64]:
    """Return the surface of second order that is nearest to the levels (rows, columns) where they are used.

    All sums of the normal equations are of powers of the row times powers of the column: two products of thin matrices give them.
    """
    down, across = (np.vander(np.arange(side) / side - 0.5, 2 * ORDER + 1, increasing=True) for side in levels.shape)
    moments = down.T @ (use @ across)  # [i, j]: the sum of y ** i * x ** j
    sums = down[:, : ORDER + 1].T @ (np.where(use, levels, 0) @ across[:, : ORDER + 1])
    i, j = np.array(TERMS).T
    matrix = moments[i[:, None] + i, j[:, None] + j]
    # Of a background that is one thin strip some of the terms cannot be told: the smallest of them that fit, as lstsq gives.
    solved, *_ = np.linalg.lstsq(matrix, sums[i, j], rcond=None)
    coefficients = np.zeros((ORDER + 1, ORDER + 1))
    coefficients[i, j] = solved
    surface: NDArray[np.float64] = down[:, : ORDER + 1] @ coefficients @ across[:, : ORDER + 1].T
    return surface


def _spread(values: NDArray[np.float64]) -> float:
    """Return the standard deviation, robustly: 1.48 times the median distance from zero."""
    return 1.48 * float(np.median(np.abs(values))) if values.size else 0.0


def _field(foreground: Mask) -> tuple[int, int, int, int]:
    """Cut off rows and columns of foreground at the edges: collimation that shows bright; at most to a third of the film."""
    rows, columns = foreground.shape
    top, bottom, left, right = 0, rows, 0, columns
    moved = True
    while moved and bottom - top > rows // 3 and right - left > columns // 3:
        part = foreground[top:bottom, left:right]
        first, last = part[0].mean() > 0.8, part[-1].mean() > 0.8
        left_full, right_full = part[:, 0].mean() > 0.8, part[:, -1].mean() > 0.8
        top, bottom, left, right = top + first, bottom - last, left + left_full, right - right_full
        moved = bool(first or last or left_full or right_full)
    return top, bottom, left, right


def _shape(part: Mask, touched: int) -> tuple[Mask, float] | None:
    """Return the filled part and how much it looks like a hand, or None where it does not."""
    outlines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(outlines, key=cv2.contourArea)
    area = float(cv2.contourArea(outline))
    hull = float(cv2.contourArea(cv2.convexHull(outline)))
    _, _, width, height = cv2.boundingRect(outline)
    fraction, solidity = area / part.size, area / max(hull, 1.0)
    if not (AREAS[0] <= fraction <= AREAS[1] and SOLIDITY[0] <= solidity <= SOLIDITY[1]):
        return None
    if area > 0.9 * width * height or touched > SIDES_TOUCHED:
        return None
    filled = np.zeros(part.shape, np.uint8)
    cv2.drawContours(filled, [outline], -1, 1, -1)
    return filled.astype(np.bool_), min(fraction / 0.12, 1.0) * (1.0 if solidity < 0.9 else 0.5)
