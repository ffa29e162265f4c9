"""Find the lines of text in what was not blanked of a film, and judge each: by its ink, by what is read there, by its shape."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.deidentification.burned_in import ink, inpainting, strokes
from service.deidentification.burned_in.hand import Grey, Mask
from service.deidentification.burned_in.ink import Ink
from service.deidentification.burned_in.recogniser import Box, Line, Recogniser, Text
from service.deidentification.burned_in.words import Words

# Scales at which places dense with strokes are looked at, by the pixels of all of them: small writing wants 2, noisy films cost more.
CLOSE: Final = ((240_000, (1.0, 2.0)), (370_000, (1.0, 1.5)), (1_000_000, (1.25,)))
CLOSE_ELSE: Final = (1.0,)
CERTAIN: Final = 0.65  # score from which on a place is text
# and below which one without ink is not read: 30 lines over the hand of 30 phantoms (JPEG of quality 50 and a blur of 0.8 pixels took
# their ink) had 0.73 at least, of 252 bones on 35 phantoms 100 less than 0.5, and half ended where the look did.
DOUBTFUL: Final = 0.5
GUESSED: Final = 0.5  # confidence from which on several signs in ink are text,
CLEARLY: Final = 0.9  # or a single one
LONG: Final = 2.5  # times as long as wide: the shape of a line of writing
FAIRLY: Final = 0.8  # confidence from which on several signs of that shape and score are text without ink,
HIGHEST: Final = 90  # pixels across, at most: writing of 60 pixels is marked with 75, a metacarpal with more
CERTAINLY_READ: Final = (
    0.95  # confidence from which on what is read is text, whatever it looks like; no other position is tried
)
WRITING_CHARACTERS: Final = 3  # and at least as many letters and digits, or two ideographs
SEVERAL: Final = 2
# Confidence from which on two ideographs are text: no bone of 120 phantoms (some 560 places that were looked at) was read so.
NAME: Final = 0.6
BONES: Final = frozenset("一二三十口日业美")  # what a recogniser reads with confidence in bones and in a whole hand
INSIDE: Final = 0.02  # part of a place that was not blanked
COVERED: Final = 0.85  # part of a line that lies in one already found: nothing is left of it to fill
SAME: Final = 0.3  # part from which on it is the same line
JUDGED: Final = 0.6  # intersection over union from which on it is a place that was judged before
MOST_READ: Final = {True: 12, False: 4}  # lines read, in ink or not
MARKER: Final = re.compile(r"(?i)^\W*(?:(l|left|左)|(r|right|右))(?:\W.*)?$")
SURE_OF_SIDE: Final = 0.8


@dataclass(frozen=True, slots=True)
class View:
    """A film (rows, columns) as one looks for text on it.

    Parameters
    ----------
    levels
        As stored.
    reach
        Levels from black to white.
    whole, blanked
        In 256 levels, bone bright: all of it, and without its surround.
    where
        What was not blanked.
    """

    levels: NDArray[Any]
    reach: float
    whole: Grey
    blanked: Grey
    where: Mask


@dataclass(slots=True)
class Found:
    """Lines of one film by their place, with what was read there, and what of them is filled."""

    fill: Mask
    boxes: list[Box] = field(default_factory=list)
    followed: list[tuple[Box, Text]] = field(default_factory=list)  # of which only the strokes are filled
    passed: list[Box] = field(default_factory=list)  # places that were judged to hold no text
    lines: int = 0
    identifying: int = 0
    texts: list[tuple[Box, Text]] = field(default_factory=list)

    @property
    def markers(self) -> set[str]:
        """Sides that lines name; a letter that is a part of a longer line names none."""
        longer = [box for box, text in self.texts if len(text.text.strip()) > 1 and not side(text)]
        return {name for box, text in self.texts for name in side(text) if not covered(box, longer, COVERED)}


def find(view: View, large: Sequence[Line], words: Words, recogniser: Recogniser) -> Found:
    """Find every line in what was not blanked: those seen on the reduced film, and closely where strokes are dense.

    A line that reaches into the surround is judged as it was before the surround went.
    """
    found, read = Found(np.zeros(view.where.shape, np.bool_)), {True: 0, False: 0}
    for score, box, cut, written in _candidates(view, large, recogniser):
        x1, y1, x2, y2 = box
        if covered(box, found.boxes, COVERED) or judged(box, found.passed):
            continue
        inked = written is not None
        text = None
        if (inked or _worth_reading(score, cut=cut)) and read[inked] < MOST_READ[inked]:
            text = best(view.whole[y1:y2, x1:x2], words, recogniser, mirrors=inked or score >= CERTAIN)
            read[inked] += 1
        if not (inked and _in_ink(text, score, box, cut=cut)) and not _by_reading(text, score, box, words, cut=cut):
            found.passed.append(box)
            continue
        if not covered(box, found.boxes, SAME):  # the same line, found at several sizes, counts once
            found.lines += 1
            found.identifying += text is not None and words.found_in(text.text)
        if text is not None:
            found.texts.append((box, text))
        _fill(view, found, box, written, text)
    found.fill &= view.where
    return found


def best(picture: Grey, words: Words, recogniser: Recogniser, *, mirrors: bool = True) -> Text | None:
    """Return the reading that names the patient, else the most confident one."""
    chosen = None
    for text in recogniser.read(picture, mirrors=mirrors):
        sure = text.confidence >= CERTAINLY_READ and (len(text.text) > 1 or side(text))
        if sure or words.found_in(text.text):
            return text
        if chosen is None or (_is_name(text), text.confidence) > (_is_name(chosen), chosen.confidence):
            chosen = text
    return chosen


def side(text: Text) -> set[str]:
    """Return L or R where a line names a side."""
    match = MARKER.match(text.text.strip())
    if match is None or text.mirrored or text.confidence < SURE_OF_SIDE:
        return set()
    return {"L" if match[1] else "R"}


def characters(text: Text) -> int:
    """Count letters and digits, ideographs twice, without those that bones look like."""
    return sum(1 if c.isascii() else 2 for c in text.text if c.isalnum() and c not in BONES)


def _is_name(text: Text) -> bool:
    """Whether at least two ideographs are read that no bone looks like: many a Chinese name has no more, and is small."""
    ideographs = [c for c in text.text if c.isalnum() and not c.isascii() and c not in BONES]
    return len(ideographs) >= SEVERAL and text.confidence >= NAME


def close_scales(pixels: int) -> tuple[float, ...]:
    """Return the scales at which places of so many pixels are looked at."""
    return next((scales for most, scales in CLOSE if pixels <= most), CLOSE_ELSE)


def judged(box: Box, others: Sequence[Box]) -> bool:
    """Whether it is a place that was judged before."""
    x1, y1, x2, y2 = box
    for a, b, c, d in others:
        both = max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b))
        if both > JUDGED * ((x2 - x1) * (y2 - y1) + (c - a) * (d - b) - both):
            return True
    return False


def _fill(view: View, found: Found, box: Box, written: Ink | None, text: Text | None) -> None:
    """Note what of a line is filled: its strokes where they can be told, else all of it."""
    if written is not None:
        mask, place, grown = ink.strokes(view.levels, box, written, view.reach)
        if grown != box and ink.is_square(box):  # of two signs it can be told which way the line goes on
            mask, place, grown = ink.strokes(view.levels, grown, written, view.reach)
        box = grown
        rows, columns = inpainting.area(box, view.where.shape)
        inside = mask[_within(rows, place[0]), _within(columns, place[1])].sum()
        if text is not None and inside < ink.WHOLE * (rows.stop - rows.start) * (columns.stop - columns.start):
            found.fill[place] |= mask
            found.boxes.append(box)
            found.followed.append((box, text))
            return
    found.fill[inpainting.area(box, found.fill.shape)] = True
    found.boxes.append(box)


def _within(span: slice, part: slice) -> slice:
    """Return where a span of rows or columns lies in a part of them."""
    return slice(max(span.start - part.start, 0), max(span.stop - part.start, 0))


def _worth_reading(score: float, *, cut: bool) -> bool:
    """Whether a place without ink may be a line that lost it: of those the detector is surer than of most bones."""
    return score >= (CERTAIN if cut else DOUBTFUL)


def _in_ink(text: Text | None, score: float, box: Box, *, cut: bool) -> bool:
    """Whether a place with the strokes of ink holds text."""
    if score >= CERTAIN and not cut and (text is None or text.confidence >= GUESSED or _is_long(box)):
        return True
    if text is None:
        return False
    signs = [c for c in text.text if c.isalnum() and c not in BONES]
    if len(signs) >= SEVERAL:
        return text.confidence >= GUESSED
    # One letter names nobody, and in the edges of a bone the recogniser reads one often.
    alone = bool(signs) and ((score >= CERTAIN and not cut) or not signs[0].isascii())
    return alone and text.confidence >= CLEARLY


def _by_reading(text: Text | None, score: float, box: Box, words: Words, *, cut: bool) -> bool:
    """Whether a place holds text by what is read there."""
    if text is None:
        return False
    count = characters(text)
    if (
        words.found_in(text.text)
        or _is_name(text)
        or (count >= WRITING_CHARACTERS and text.confidence >= CERTAINLY_READ)
    ):
        return True
    line = score >= CERTAIN and not cut and _is_long(box) and min(box[2] - box[0], box[3] - box[1]) <= HIGHEST
    return line and count >= SEVERAL and text.confidence >= FAIRLY


def _candidates(view: View, large: Sequence[Line], recogniser: Recogniser) -> list[tuple[float, Box, bool, Ink | None]]:
    """Return score, place, whether the look ended there, and ink, the likely ones first."""
    places = [(line.score, line.box, False) for line in large]
    places += _close(view.blanked, view.where, recogniser)
    found = []
    for score, box, cut in places:
        x1, y1, x2, y2 = box
        if view.where[y1:y2, x1:x2].mean() >= INSIDE:
            found.append((score, box, cut, ink.of(view.levels, box, view.reach)))
    return sorted(found, key=_likely, reverse=True)


def _likely(place: tuple[float, Box, bool, Ink | None]) -> tuple[bool, bool, float, Box]:
    """Return what decides which place is judged, and read, before another."""
    score, box, _, written = place
    return written is not None, _is_long(box), score, box


def _is_long(box: Box) -> bool:
    short, long = sorted((box[2] - box[0], box[3] - box[1]))
    return long >= LONG * short


def _close(grey: Grey, where: Mask, recogniser: Recogniser) -> Iterator[tuple[float, Box, bool]]:
    """Look closely at what is dense with strokes; yield score, place and whether the look ended there."""
    ys, xs = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    if not ys.size:
        return
    top, left = int(ys[0]), int(xs[0])
    part, inside = grey[top : ys[-1] + 1, left : xs[-1] + 1], where[top : ys[-1] + 1, left : xs[-1] + 1]
    rows, columns = part.shape
    patches = strokes.patches(part, inside)
    scales = close_scales(sum(map(strokes.area, patches)))
    for patch in patches:
        x1, y1, x2, y2 = patch
        for scale in scales:
            for line in recogniser.find(np.ascontiguousarray(part[y1:y2, x1:x2]), scale=scale):
                a, b, c, d = line.box[0] + x1, line.box[1] + y1, line.box[2] + x1, line.box[3] + y1
                cut = _cut((a, b, c, d), patch, (columns, rows))
                yield line.score, (a + left, b + top, c + left, d + top), cut


def _cut(box: Box, patch: Box, size: tuple[int, int]) -> bool:
    """Whether a place ends at an edge of its patch that is no edge of the film: it may be the end of a bone."""
    x1, y1, x2, y2 = patch
    columns, rows = size
    return bool(
        (box[0] <= x1 + 1 and x1 > 0)
        or (box[1] <= y1 + 1 and y1 > 0)
        or (box[2] >= x2 - 1 and x2 < columns)
        or (box[3] >= y2 - 1 and y2 < rows)
    )


def covered(box: Box, boxes: Sequence[Box], part: float) -> bool:
    """Whether a line found before holds at least that part of this one."""
    x1, y1, x2, y2 = box
    area = max((x2 - x1) * (y2 - y1), 1)
    return any(max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b)) > part * area for a, b, c, d in boxes)
