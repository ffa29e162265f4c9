"""Clean the pixels of one film and look again: what was done, what could not be done."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.deidentification.burned_in import hand, inpainting, strokes, surround
from service.deidentification.burned_in.hand import Grey, Mask
from service.deidentification.burned_in.recogniser import Box, Line, Recogniser, Text, shared
from service.deidentification.burned_in.words import Words
from service.errors import InvalidInstance

REDUCED: Final = 0.5  # scale at which large writing is looked for,
REDUCED_SIDE: Final = 768  # pixels at most: what is still small then has strokes
CLOSE: Final = (
    1.0,
    1.5,
)  # scales at which places dense with strokes are looked at: each sees lines that the other does not
MOST_CLOSE: Final = (
    600_000  # pixels of such places; a film with more of them is noisy, and seen at the first scale alone
)
# Set on 25 real films without writing over the hand; see benchmarks/README.md.
CERTAIN: Final = 0.65  # score from which on a place of the size of a line is text, whatever is read there,
GUESSED: Final = 0.3  # as long as something is read at all: in bones and in noise nothing is
LONG: Final = 2.5  # times as long as wide: the shape of a line of writing, of which neither is asked
TALL: Final = 96  # pixels: a larger place is text only if it can be read
SMALL: Final = 32  # pixels: a larger sign that stands alone names nobody, and a bone often is one
BROAD: Final = 48  # pixels: a line as broad as a bone has to be read, too,
CLEARLY_READ: Final = 0.7  # with this confidence,
HALF_READ: Final = 0.5  # or with this one where it has several signs
UNMISTAKABLE: Final = 0.85  # score from which on it is a sign all the same
WRITING_CONFIDENCE: Final = 0.8  # from which on something read is text, whatever its score
WRITING_CHARACTERS: Final = 3  # and at least as many letters and digits, or two ideographs
IDEOGRAPH: Final = 0.5  # score from which on one ideograph that is read for certain is writing
BONES: Final = frozenset("一二三十口日业美")  # what a recogniser reads with confidence in bones and in a whole hand
INSIDE: Final = 0.3  # part of a place that was not blanked
CERTAINLY_READ: Final = 0.95  # no other position needs to be tried
COVERED: Final = 0.85  # part of a line that lies in one already found: nothing is left of it to fill
SAME: Final = 0.3  # part from which on it is the same line
JUDGED: Final = 0.6  # intersection over union from which on it is a place that was judged before
MOST_LINES_READ: Final = 12
MOST_READ_AGAIN: Final = 4  # lines that are filled whatever is read there, read to say whether they are of the patient
GOES_ON: Final = 8  # times its height to either side a line is followed: parts of it may have been seen alone
MOST_FOLLOWED: Final = 400  # pixels: a longer line was seen whole
SAME_LINE: Final = 0.5  # of its height: how far from its middle the middle of another part may lie
GROWTH: Final = 8  # pixels by which what is left of a line is filled wider, with each look
LOOKS: Final = 3  # times the film is looked at again after something was filled
MOST_MARKERS: Final = 3
MARKER: Final = re.compile(r"(?i)^\W*(?:(l|left|左)|(r|right|右))(?:\W.*)?$")
SHADES: Final = (0.5, 99.9)  # percentiles of the stored levels that become black and white
# Whether a grey scale runs the other way (PS3.3 C.7.6.3.1.2), and which colour models keep grey as grey.
INVERSE: Final = "MONOCHROME1"
COLOURS: Final = frozenset({"RGB", "YBR_FULL"})
DEPTHS: Final = frozenset({8, 16, 32})


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What was done to the pixels of one instance. It holds no text that was read, apart from the side.

    Parameters
    ----------
    blanked
        Part of the film that was blanked because it lies outside the hand; 0 where no hand was found.
    lines
        Lines of text filled over the hand, or anywhere when no hand was found.
    identifying
        How many of them hold a name, number or date of the header.
    remaining
        Lines that can still be read after `LOOKS` attempts.
    markers
        Sides named by markers on the film, as far as they could be read: L, R.
    """

    blanked: float = 0.0
    lines: int = 0
    identifying: int = 0
    remaining: int = 0
    markers: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one sentence for a timeline."""
        parts = [f"{100 * self.blanked:.0f} % outside the hand blanked" if self.blanked else "no hand outlined"]
        if self.lines:
            parts.append(f"{self.lines} lines of text removed, {self.identifying} of them of the patient")
        if self.remaining:
            parts.append(f"{self.remaining} lines of text remain")
        if self.markers:
            parts.append(f"side marker {' and '.join(self.markers)}")
        return "; ".join(parts)


@dataclass(slots=True)
class _Found:
    """Lines of one film by their place, with what was read there."""

    boxes: list[Box] = field(default_factory=list)
    passed: list[Box] = field(default_factory=list)  # places that were judged to hold no text
    read: int = 0
    lines: int = 0
    identifying: int = 0
    markers: set[str] = field(default_factory=set)


def clean(
    levels: NDArray[Any], words: Words, recogniser: Recogniser, *, inverse: bool = False
) -> tuple[NDArray[Any], Cleaning]:
    """Return a film (rows, columns) without its text, in the same type, and what was done.

    Samples that are neither outside the hand nor part of a line of text come back as they were.

    Parameters
    ----------
    inverse
        Whether low levels show bright (MONOCHROME1).
    """
    low, high = (float(level) for level in np.percentile(levels[::2, ::2], SHADES))
    film = levels.astype(np.float32)

    def shades(part: NDArray[np.float32]) -> Grey:
        scaled: Grey = np.clip((part - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
        return np.bitwise_not(scaled) if inverse else scaled

    grey = shades(film)
    outline = hand.find(grey)
    large = recogniser.find(grey, scale=min(REDUCED, REDUCED_SIDE / max(grey.shape)))
    changed = np.zeros(levels.shape, np.bool_)
    markers: set[str] = set()
    blanked = 0.0
    if outline is not None:
        film, changed = surround.blanked(film, outline)
        markers = _markers(grey, changed, large, recogniser)
        blanked = float(changed.mean())
        grey = shades(film)
    where = ~changed
    found = _lines(grey, where, large, words, recogniser)
    fresh, readable = found.boxes, 0
    for look in range(1, LOOKS + 1):
        if not fresh:
            break
        film, filled = inpainting.filled(film, fresh)
        changed |= filled
        grey = shades(film)
        fresh, readable = _left(grey, fresh, words, recogniser, look=look)
    cleaning = Cleaning(blanked, found.lines, found.identifying, readable, tuple(sorted(markers | found.markers)))
    return _stored(film, levels, changed), cleaning


def clean_instance(copy: Dataset, header: Dataset, recogniser: Recogniser | None = None) -> Cleaning | None:
    """Clean the native pixels of a de-identified copy in place; None for a class whose pixels are no picture (1 bit).

    Parameters
    ----------
    copy
        With native little endian pixel data (`native_pixels.copy_pixels`); gets BurnedInAnnotation.
    header
        The instance as received, whose names, numbers and dates are looked for.

    Raises
    ------
    InvalidInstance
        When the samples are of a kind in which text cannot be looked for.
    """
    allocated = int(copy.get("BitsAllocated", 0))
    if allocated == 1:
        return None
    interpretation = str(copy.get("PhotometricInterpretation", ""))
    samples = int(copy.get("SamplesPerPixel", 1))
    grey = samples == 1 and interpretation.startswith("MONOCHROME")
    colour = samples == 3 and interpretation in COLOURS and allocated == 8
    if "PixelData" not in copy or allocated not in DEPTHS or not (grey or colour):
        raise InvalidInstance(
            f"text cannot be looked for in pixels of {interpretation or 'no stated kind'}, {allocated} bits",
            code="pixels-not-cleanable",
        )
    words, recogniser = Words.of(header), recogniser or shared()
    rows, columns, frames = int(copy.Rows), int(copy.Columns), int(copy.get("NumberOfFrames") or 1)
    signed = "i" if int(copy.get("PixelRepresentation", 0)) else "u"
    array = np.frombuffer(copy.PixelData, f"<{signed}{allocated // 8}")[: frames * rows * columns * samples].copy()
    spare = int(copy.get("HighBit", allocated - 1)) + 1 - int(copy.get("BitsStored", allocated))
    if spare > 0:
        array >>= spare
    planar = colour and int(copy.get("PlanarConfiguration", 0)) == 1
    if planar or samples == 1:
        pictures = array.reshape(frames, samples, rows, columns)
    else:
        pictures = np.moveaxis(
            array.reshape(frames, rows, columns, samples), 3, 1
        )  # a view: the array itself is cleaned
    results = [_frame(pictures[index], words, recogniser, inverse=interpretation == INVERSE) for index in range(frames)]
    if spare > 0:
        array <<= spare
    data = array.tobytes()
    copy.PixelData = data + b"\0" * (len(data) % 2)
    whole = Cleaning(
        blanked=float(np.mean([result.blanked for result in results])),
        lines=sum(result.lines for result in results),
        identifying=sum(result.identifying for result in results),
        remaining=sum(result.remaining for result in results),
        markers=tuple(sorted({side for result in results for side in result.markers})),
    )
    copy.BurnedInAnnotation = "YES" if whole.remaining else "NO"
    return whole


def _frame(planes: NDArray[Any], words: Words, recogniser: Recogniser, *, inverse: bool) -> Cleaning:
    """Clean one frame (samples, rows, columns) in place."""
    if len(planes) == 1:
        planes[0], cleaning = clean(planes[0], words, recogniser, inverse=inverse)
        return cleaning
    # In colour every plane is looked at: text may be written in one colour only.
    results = []
    for plane in planes:
        plane[...], result = clean(plane, words, recogniser)
        results.append(result)
    return max(results, key=lambda result: (result.remaining, result.lines))


def _lines(grey: Grey, where: Mask, large: Sequence[Line], words: Words, recogniser: Recogniser) -> _Found:
    """Find every line of text in what was not blanked: those seen on the reduced film, and closely where strokes are dense."""
    found = _Found()
    for score, box, cut in sorted([*_large(large), *_close(grey, where, recogniser)], reverse=True):
        x1, y1, x2, y2 = box
        if where[y1:y2, x1:x2].mean() < INSIDE or _covered(box, found.boxes, COVERED) or _judged(box, found.passed):
            continue
        short, long = sorted((x2 - x1, y2 - y1))
        plausible = score >= CERTAIN and not cut and short <= TALL
        enough = MOST_READ_AGAIN if plausible and long >= LONG * short and short <= BROAD else MOST_LINES_READ
        best = _read(grey[y1:y2, x1:x2], words, recogniser) if found.read < enough else None
        found.read += best is not None
        if best is not None and short > BROAD:
            several = _characters(best) >= WRITING_CHARACTERS and best.confidence >= HALF_READ
            plausible &= best.confidence >= CLEARLY_READ or several or score >= UNMISTAKABLE
        if best is not None and long < LONG * short:
            doubtful = short > SMALL or best.confidence < WRITING_CONFIDENCE
            alone = _characters(best) <= 1 and doubtful and score < UNMISTAKABLE
            plausible &= best.confidence >= GUESSED and not alone
        written = best is not None and (_is_writing(best, words) or _is_ideograph(best, score))
        if best is not None and short > TALL and best.confidence < CERTAINLY_READ:
            written = words.found_in(best.text)
        if plausible or written:
            if not _covered(box, found.boxes, SAME):  # the same line, found at several sizes, counts once
                found.lines += 1
                found.identifying += best is not None and words.found_in(best.text)
            found.boxes.append(box)
            found.markers |= set() if best is None else _side(best)
        else:
            found.passed.append(box)
    return found


def _large(lines: Sequence[Line]) -> Iterator[tuple[float, Box, bool]]:
    return ((line.score, line.box, False) for line in lines)


def _close(grey: Grey, where: Mask, recogniser: Recogniser) -> Iterator[tuple[float, Box, bool]]:
    """Look closely at what is dense with strokes; yield score, place and whether the look ended there."""
    ys, xs = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    if not ys.size:
        return
    top, left = int(ys[0]), int(xs[0])
    part, inside = grey[top : ys[-1] + 1, left : xs[-1] + 1], where[top : ys[-1] + 1, left : xs[-1] + 1]
    rows, columns = part.shape
    patches = strokes.patches(part, inside)
    scales = CLOSE if sum(map(strokes.area, patches)) <= MOST_CLOSE else CLOSE[:1]
    for patch in patches:
        x1, y1, x2, y2 = patch
        for scale in scales:
            for line in recogniser.find(np.ascontiguousarray(part[y1:y2, x1:x2]), scale=scale):
                a, b, c, d = line.box[0] + x1, line.box[1] + y1, line.box[2] + x1, line.box[3] + y1
                cut = _cut((a, b, c, d), patch, (columns, rows))
                yield line.score, (a + left, b + top, c + left, d + top), cut


def _judged(box: Box, others: Sequence[Box]) -> bool:
    """Whether it is a place that was judged before."""
    x1, y1, x2, y2 = box
    for a, b, c, d in others:
        both = max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b))
        if both > JUDGED * ((x2 - x1) * (y2 - y1) + (c - a) * (d - b) - both):
            return True
    return False


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


def _covered(box: Box, boxes: Sequence[Box], part: float) -> bool:
    """Whether a line found before holds at least that part of this one."""
    x1, y1, x2, y2 = box
    area = max((x2 - x1) * (y2 - y1), 1)
    return any(max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b)) > part * area for a, b, c, d in boxes)


def _read(picture: Grey, words: Words, recogniser: Recogniser) -> Text | None:
    """Return the reading that names the patient, else the most confident one."""
    best = None
    for text in recogniser.read(picture):
        sure = text.confidence >= CERTAINLY_READ and (len(text.text) > 1 or _side(text))
        if sure or words.found_in(text.text):
            return text
        if best is None or text.confidence > best.confidence:
            best = text
    return best


def _is_writing(text: Text, words: Words) -> bool:
    enough = _characters(text) >= WRITING_CHARACTERS
    return words.found_in(text.text) or (text.confidence >= WRITING_CONFIDENCE and enough)


def _is_ideograph(text: Text, score: float) -> bool:
    """Whether it is one ideograph that no bone looks like: names may have no more."""
    sure = text.confidence >= CERTAINLY_READ and score >= IDEOGRAPH
    return sure and _characters(text) >= 2 and not any(c.isascii() for c in text.text)


def _characters(text: Text) -> int:
    """Count letters and digits, ideographs twice, without those that bones look like."""
    return sum(1 if c.isascii() else 2 for c in text.text if c.isalnum() and c not in BONES)


def _left(
    grey: Grey, boxes: Sequence[Box], words: Words, recogniser: Recogniser, *, look: int
) -> tuple[list[Box], int]:
    """Look again at what was filled; return what still looks like text, wider than before, and how much can be read.

    At the first look each line is followed to either side.
    """
    rows, columns = grey.shape
    growth, scales = GROWTH * look, CLOSE if look == 1 else CLOSE[:1]
    again: list[Box] = []
    judged: list[Box] = []
    readable = 0
    for box in boxes:
        part, (left, top), upright = _strip(grey, box, follow=look == 1)
        middle, half = _across(box), SAME_LINE * min(box[2] - box[0], box[3] - box[1])
        for line in (line for scale in scales for line in recogniser.find(part, scale=scale)):
            a, b, c, d = line.box if upright else _turned_back(line.box, part.shape)
            place = (left + a, top + b, left + c, top + d)
            if _judged(place, judged):
                continue
            judged.append(place)
            aligned = abs(_across(place, like=box) - middle) <= half
            if not aligned and line.score < CERTAIN and not _covered(place, [_wider(box, growth)], SAME):
                continue  # a bone beside the line
            text = _read(grey[place[1] : place[3], place[0] : place[2]], words, recogniser)
            written = text is not None and (_is_writing(text, words) or _is_ideograph(text, line.score))
            goes_on = text is not None and text.confidence >= WRITING_CONFIDENCE and _characters(text) >= 2 and aligned
            if not written and not goes_on and line.score < CERTAIN:
                continue
            readable += written
            wide = _wider(place, growth)
            again.append((max(wide[0], 0), max(wide[1], 0), min(wide[2], columns), min(wide[3], rows)))
    return again, readable


def _wider(box: Box, growth: int) -> Box:
    return box[0] - growth, box[1] - growth, box[2] + growth, box[3] + growth


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


def _markers(grey: Grey, outside: Mask, large: Sequence[Line], recogniser: Recogniser) -> set[str]:
    """Read the sides that markers beside the hand name."""
    sides: set[str] = set()
    lines = [line for line in large if line.score >= CERTAIN]
    beside = [line for line in lines if outside[line.box[1] : line.box[3], line.box[0] : line.box[2]].mean() > 0.5]
    for line in sorted(beside, key=lambda line: -(line.box[2] - line.box[0]) * (line.box[3] - line.box[1]))[
        :MOST_MARKERS
    ]:
        x1, y1, x2, y2 = line.box
        for text in recogniser.read(grey[y1:y2, x1:x2], mirrors=False):
            side = _side(text)
            sides |= side
            if side:
                break
    return sides


def _side(text: Text) -> set[str]:
    """Return L or R where a line names a side."""
    match = MARKER.match(text.text.strip())
    if match is None or text.mirrored or text.confidence < WRITING_CONFIDENCE:
        return set()
    return {"L" if match[1] else "R"}


def _stored(film: NDArray[np.float32], levels: NDArray[Any], changed: Mask) -> NDArray[Any]:
    """Return the film in its own type; what was not changed is the sample as it came."""
    out = levels.copy()
    if changed.any():
        lowest, highest = int(levels.min()), int(levels.max())
        out[changed] = np.clip(np.rint(film[changed]), lowest, highest).astype(levels.dtype)
    return out
