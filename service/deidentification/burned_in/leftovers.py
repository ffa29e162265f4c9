"""Look again at what was filled: what still looks like text, what can still be read."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from service.deidentification.burned_in import ink
from service.deidentification.burned_in.hand import Grey
from service.deidentification.burned_in.lines import (
    CERTAIN,
    CERTAINLY_READ,
    SAME,
    SEVERAL,
    WRITING_CHARACTERS,
    best,
    characters,
    covered,
    judged,
)
from service.deidentification.burned_in.recogniser import Box, Recogniser, Text
from service.deidentification.burned_in.words import Words, plain

GOES_ON: Final = 8  # times its height to either side a line is followed: parts of it may have been seen alone
MOST_FOLLOWED: Final = 400  # pixels: a longer line was seen whole
SAME_LINE: Final = 0.5  # of its height: how far from its middle the middle of another part may lie
GROWTH: Final = 8  # pixels by which what is left of a line is filled wider, with each look
WRITING: Final = 0.8  # confidence from which on something read where text was is text
IDEOGRAPH: Final = 0.5  # score from which on one ideograph that is read for certain is writing
SMALL: Final = 32  # pixels: of a line of this height, or a lower one, what is left is looked at
ENLARGED: Final = 1.5  # times its size, too
TALLER: Final = 1.2  # times the height of a line that what is left of it may have, unless it is ink
GREYS: Final = 255.0  # levels from black to white of what is looked at
HEARD: Final = 0.3  # confidence of an echo, at least: of fills in which two signs were read by chance none was read with less than 0.48
AROUND: Final = 6  # pixels beside a line that are read with it


def left(grey: Grey, boxes: Sequence[Box], words: Words, recogniser: Recogniser, *, look: int) -> tuple[list[Box], int]:
    """Return what still looks like text, wider than before, and how much can be read.

    At the first look each line is followed to either side.
    """
    rows, columns = grey.shape
    growth = GROWTH * look
    again: list[Box] = []
    seen: list[Box] = []
    readable = 0
    for box in boxes:
        part, (x, y), upright = _strip(grey, box, follow=look == 1)
        height = min(box[2] - box[0], box[3] - box[1])
        middle, half = _across(box), SAME_LINE * height
        scales = (1.0, ENLARGED) if look == 1 and height <= SMALL else (1.0,)
        for line in (line for scale in scales for line in recogniser.find(part, scale=scale)):
            a, b, c, d = line.box if upright else _turned_back(line.box, part.shape)
            place = (x + a, y + b, x + c, y + d)
            if judged(place, seen):
                continue
            seen.append(place)
            aligned = abs(_across(place, like=box) - middle) <= half
            if not aligned and line.score < CERTAIN and not covered(place, [wider(box, growth)], SAME):
                continue  # a bone beside the line
            text = best(grey[place[1] : place[3], place[0] : place[2]], words, recogniser)
            written = text is not None and (_is_writing(text, words) or _is_ideograph(text, line.score))
            goes_on = text is not None and text.confidence >= WRITING and characters(text) >= SEVERAL and aligned
            inked = ink.of(grey, place, GREYS) is not None
            if not inked and min(place[2] - place[0], place[3] - place[1]) > TALLER * height + growth:
                continue  # what is left of a line is not taller than the line was
            if not written and not goes_on and not (inked and line.score >= CERTAIN):
                continue
            readable += written
            wide = wider(place, growth)
            again.append((max(wide[0], 0), max(wide[1], 0), min(wide[2], columns), min(wide[3], rows)))
    return again, readable


def echoes(grey: Grey, followed: Sequence[tuple[Box, Text]], recogniser: Recogniser) -> list[Box]:
    """Return the lines whose strokes alone were filled and of which something can still be read, in whatever position."""
    found = []
    for box, text in followed:
        x1, y1, x2, y2 = box
        picture = grey[max(y1 - AROUND, 0) : y2 + AROUND, max(x1 - AROUND, 0) : x2 + AROUND]
        if any(echo(text, again) for again in recogniser.read(picture)):
            found.append(box)
    return found


def echo(before: Text, after: Text) -> bool:
    """Whether what is read holds two signs in order of what was read before, or one of its ideographs."""
    if after.confidence < HEARD:
        return False
    first, again = plain(before.text), plain(after.text)
    if any(not sign.isascii() and sign in again for sign in first):
        return True
    return any(first[index : index + SEVERAL] in again for index in range(len(first) - SEVERAL + 1))


def wider(box: Box, growth: int) -> Box:
    """Return a box with so many pixels more on each side."""
    return box[0] - growth, box[1] - growth, box[2] + growth, box[3] + growth


def _is_writing(text: Text, words: Words) -> bool:
    enough = characters(text) >= WRITING_CHARACTERS
    return words.found_in(text.text) or (text.confidence >= WRITING and enough)


def _is_ideograph(text: Text, score: float) -> bool:
    """Whether it is one ideograph that no bone looks like: names may have no more."""
    sure = text.confidence >= CERTAINLY_READ and score >= IDEOGRAPH
    return sure and characters(text) >= SEVERAL and not any(c.isascii() for c in text.text)


def _strip(grey: Grey, box: Box, *, follow: bool) -> tuple[Grey, tuple[int, int], bool]:
    """Return what lies around a line and where it goes on, so that the line runs across it; its corner; whether it did before."""
    x1, y1, x2, y2 = box
    rows, columns = grey.shape
    upright = x2 - x1 >= y2 - y1
    pad = 12 + (y2 - y1 + x2 - x1) // 8
    follow &= max(x2 - x1, y2 - y1) <= MOST_FOLLOWED
    along = max(pad, GOES_ON * min(x2 - x1, y2 - y1)) if follow else pad
    x, y = (along, pad) if upright else (pad, along)
    left, top = max(x1 - x, 0), max(y1 - y, 0)
    part = grey[top : min(y2 + y, rows), left : min(x2 + x, columns)]
    return np.ascontiguousarray(part if upright else np.rot90(part)), (left, top), upright


def _turned_back(box: Box, shape: tuple[int, ...]) -> Box:
    """Return a place of a picture that was turned by a quarter counter-clockwise as it lies on what was turned."""
    x1, y1, x2, y2 = box
    columns = shape[0]  # of what was turned
    return columns - y2, x1, columns - y1, x2


def _across(box: Box, like: Box | None = None) -> float:
    """Return the middle of a line across the way it (or another one) runs."""
    x1, y1, x2, y2 = like or box
    return (box[1] + box[3]) / 2 if x2 - x1 >= y2 - y1 else (box[0] + box[2]) / 2
