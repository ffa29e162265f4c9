"""Find lines of text in a picture and read them (PP-OCRv6, small, by RapidOCR; the weights come with its package).

Chosen by measurement, see benchmarks/README.md. Nothing is fetched: the weights are files of an installed package.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Final

import cv2
import numpy as np

from service.deidentification.burned_in.hand import Grey
from service.deidentification.burned_in.networks import Detector, Reader

Box = tuple[int, int, int, int]  # x1 y1 x2 y2 in pixels
LIKELY: Final = 0.3  # score from which on a place may hold text
LOWEST: Final = (
    12,
    20,
)  # pixels, shorter and longer side of what may be a line: below are specks, text of 14 pixels is larger
TALLEST: Final = 160  # pixels, shorter side: a whole hand can look like one ideograph
# The same line as it lies on a film that was turned or mirrored.
TURNS: Final = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class Line:
    """A place that holds text."""

    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class Text:
    """A line as read in one of eight positions."""

    text: str
    confidence: float
    turns: int  # quarters counter-clockwise by which the picture was turned to be read
    mirrored: bool


class Recogniser:
    """The two networks of one process; loaded at their first use, one caller at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._networks: tuple[Detector, Reader] | None = None

    def find(self, picture: Grey, *, scale: float = 1.0) -> list[Line]:
        """Return the lines of text in a picture (rows, columns), looked at in `scale` times its size."""
        seen = picture
        if scale != 1:
            kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            seen = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=kind), np.uint8)
        if min(seen.shape) < 8:
            return []
        with self._lock:
            found = self._loaded()[0](seen)
        rows, columns = picture.shape
        lines = []
        for corners, score in found:
            (x1, y1), (x2, y2) = np.floor(corners.min(0) / scale), np.ceil(corners.max(0) / scale)
            box = (max(int(x1), 0), max(int(y1), 0), min(int(x2), columns), min(int(y2), rows))
            short, long = sorted((box[2] - box[0], box[3] - box[1]))
            if LOWEST[0] <= short <= TALLEST and long >= LOWEST[1]:
                lines.append(Line(box, score))
        return lines

    def read(self, picture: Grey, *, mirrors: bool = True) -> Iterator[Text]:
        """Read one line in every position it may have on a film, the likely ones first."""
        rows, columns = picture.shape
        upright = TURNS if columns >= rows else TURNS[2:] + TURNS[:2]
        for mirrored in (False, True) if mirrors else (False,):
            for turns in upright:
                # A line is read along its longer side; a short one may be either way.
                if max(rows, columns) > 2 * min(rows, columns) and (turns % 2 == 1) != (rows > columns):
                    continue
                yield self.read_as(picture, turns, mirrored=mirrored)

    def read_as(self, picture: Grey, turns: int, *, mirrored: bool) -> Text:
        """Read one line in one position: mirrored first, then turned counter-clockwise by so many quarters."""
        seen = np.rot90(picture[:, ::-1] if mirrored else picture, turns)
        with self._lock:
            text, confidence = self._loaded()[1](np.ascontiguousarray(seen))
        return Text(text, confidence, turns, mirrored)

    def _loaded(self) -> tuple[Detector, Reader]:
        if self._networks is None:
            self._networks = Detector(LIKELY), Reader()
        return self._networks


@cache
def shared() -> Recogniser:
    """Return the recogniser of this process."""
    return Recogniser()
