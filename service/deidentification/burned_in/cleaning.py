"""Clean the pixels of one film and look again: what was done, what could not be done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.deidentification.burned_in import hand, inpainting, leftovers, lines, surround
from service.deidentification.burned_in.hand import Grey, Mask
from service.deidentification.burned_in.recogniser import Line, Recogniser, shared
from service.deidentification.burned_in.words import Words
from service.errors import InvalidInstance

REDUCED: Final = 0.5  # scale at which large writing is looked for,
REDUCED_SIDE: Final = 768  # pixels at most: what is still small then has strokes
LOOKS: Final = 3  # times the film is looked at again after something was filled
MOST_MARKERS: Final = 3
TABULATED: Final = 65_536  # levels, at most, whose greys are worked out once for all pixels
SHADES: Final = (0.5, 99.9)  # percentiles of the stored levels that are shown on a straight scale,
KNEE: Final = 15  # of 256 grey levels, left at either end for what lies beyond: white writing on white bone
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
    limits = int(levels.min()), int(levels.max())
    shades, reach = _shades(levels, limits, inverse=inverse)
    film, whole = levels, shades(levels)
    outline = hand.find(whole)
    large = recogniser.find(whole, scale=min(REDUCED, REDUCED_SIDE / max(whole.shape)))
    where = np.ones(levels.shape, np.bool_)
    markers: set[str] = set()
    blanked = 0.0
    if outline is None:
        film, grey = levels.copy(), whole
    else:
        film, surrounding = surround.blanked(levels, outline)
        markers = _markers(whole, surrounding, large, recogniser)
        where, blanked, grey = ~surrounding, float(surrounding.mean()), shades(film)
    found = lines.find(lines.View(levels, reach, whole, grey, where), large, words, recogniser)
    fresh, fill, readable = found.boxes, found.fill, 0
    for look in range(1, LOOKS + 1):
        if not fresh:
            break
        inpainting.fill(film, fresh, fill, limits)
        grey = shades(film)
        echoes = leftovers.echoes(grey, found.followed, recogniser) if look == 1 else []
        fresh, readable = leftovers.left(grey, fresh, words, recogniser, look=look)
        fresh += echoes
        readable += len(echoes)
        fill = inpainting.whole(fresh, film.shape) & where
    cleaning = Cleaning(blanked, found.lines, found.identifying, readable, tuple(sorted(markers | found.markers)))
    return film, cleaning


def _shades(
    levels: NDArray[Any], limits: tuple[int, int], *, inverse: bool
) -> tuple[Callable[[NDArray[Any]], Grey], float]:
    """Return what shows levels within limits in 256 greys, bone bright, and how many levels there are from black to white."""
    low, high = (float(level) for level in np.percentile(levels[::2, ::2], SHADES))
    high = max(high, low + 1e-3)
    ends = [min(float(limits[0]), low - 1), low, high, max(float(limits[1]), high + 1)]

    def shades(part: NDArray[Any]) -> Grey:
        scaled: Grey = np.interp(part, ends, [0, KNEE, 255 - KNEE, 255]).astype(np.uint8)
        return np.bitwise_not(scaled) if inverse else scaled

    if limits[1] - limits[0] >= TABULATED:
        return shades, high - low
    table = shades(np.arange(limits[0], limits[1] + 1))
    if levels.dtype == np.uint8:  # of all levels there are, what OpenCV wants
        table = np.pad(table, (limits[0], 255 - limits[1]))
        return lambda part: np.asarray(cv2.LUT(part, table), np.uint8), high - low
    return lambda part: table[np.subtract(part, limits[0], dtype=np.int64) if limits[0] else part], high - low


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


def _markers(grey: Grey, outside: Mask, large: Sequence[Line], recogniser: Recogniser) -> set[str]:
    """Read the sides that markers beside the hand name."""
    sides: set[str] = set()
    certain = [line for line in large if line.score >= lines.CERTAIN]
    beside = [line for line in certain if outside[line.box[1] : line.box[3], line.box[0] : line.box[2]].mean() > 0.5]
    for line in sorted(beside, key=lambda line: -(line.box[2] - line.box[0]) * (line.box[3] - line.box[1]))[
        :MOST_MARKERS
    ]:
        x1, y1, x2, y2 = line.box
        for text in recogniser.read(grey[y1:y2, x1:x2], mirrors=False):
            side = lines.side(text)
            sides |= side
            if side:
                break
    return sides
