"""Say where on a film writing may be: places dense with thin, sharp lines.

The strokes of letters of up to about 80 pixels are at most 6 pixels wide and stand out of their surroundings at once; a
morphological top-hat shows such lines in a millisecond. In letters they lie close together: of 251 lines of 14 to 60 pixels on 100
phantoms the densest tenth of each held at least 300 stroke pixels in the window below, of bones on 25 real films one place in 30.
The recogniser looks at these places alone, which is what lets it look closely.
"""

from typing import Final

import cv2
import numpy as np

from service.deidentification.burned_in.hand import Grey, Mask

WIDEST: Final = 7  # pixels: a line narrower than this is a stroke
CONTRAST: Final = (12, 24)  # grey levels of 256 by which it stands out: where a film is quiet, where it is noisy
NOISE: Final = 4.0  # times the median top-hat of the neighbourhood: what noise and trabeculae reach
NEIGHBOURHOOD: Final = 41  # samples of every fourth pixel: wider than a line of writing is high
WINDOW: Final = 32  # pixels: the square in which strokes are counted
DENSE: Final = 190  # stroke pixels in it that call for a look
MARGIN: Final = 24  # pixels around a dense place
JOINED: Final = 1.15  # two places become one that is at most this much larger than both together
TILE: Final = 704  # pixels: within it the recogniser works out of the processor's cache
OVERLAP: Final = 96  # pixels: a short line between two tiles is whole in one of them

Patch = tuple[int, int, int, int]  # x1 y1 x2 y2


def patches(film: Grey, where: Mask) -> list[Patch]:
    """Return the rectangles of a film (rows, columns) in which writing may be, inside of `where`."""
    kernel = np.ones((WIDEST, WIDEST), np.uint8)
    bright, dark = (cv2.morphologyEx(film, kind, kernel) for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    lines = np.maximum(bright, dark)
    rows, columns = film.shape
    noise = cv2.medianBlur(np.ascontiguousarray(lines[::4, ::4]), NEIGHBOURHOOD)
    contrast = np.clip(NOISE * noise.astype(np.float32), *CONTRAST).astype(np.uint8)
    contrast = np.asarray(cv2.resize(contrast, (columns, rows), interpolation=cv2.INTER_NEAREST), np.uint8)
    strokes = ((lines > contrast) & where).view(np.uint8)
    window = (WINDOW, WINDOW)
    counts = cv2.boxFilter(strokes, cv2.CV_16U, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
    _, _, places, _ = cv2.connectedComponentsWithStats(np.asarray(counts >= DENSE).view(np.uint8))
    wide = [
        (max(x - MARGIN, 0), max(y - MARGIN, 0), min(x + width + MARGIN, columns), min(y + height + MARGIN, rows))
        for x, y, width, height, _ in places[1:].tolist()
    ]
    return [tile for patch in _joined(wide) for tile in _tiles(patch)]


def area(patch: Patch) -> int:
    """Return the pixels of a rectangle."""
    return (patch[2] - patch[0]) * (patch[3] - patch[1])


def _joined(patches: list[Patch]) -> list[Patch]:
    """Join rectangles that overlap, as long as that adds little besides them."""
    before = -1
    while before != len(patches):
        before, joined = len(patches), list[Patch]()
        for patch in sorted(patches, key=area):
            for index, other in enumerate(joined):
                both = (*map(min, patch[:2], other[:2]), *map(max, patch[2:], other[2:]))
                whole = (int(both[0]), int(both[1]), int(both[2]), int(both[3]))
                overlap = all(patch[n] <= other[n + 2] and other[n] <= patch[n + 2] for n in (0, 1))
                if overlap and area(whole) <= JOINED * (area(patch) + area(other)):
                    joined[index] = whole
                    break
            else:
                joined.append(patch)
        patches = joined
    return patches


def _tiles(patch: Patch) -> list[Patch]:
    """Divide a large rectangle."""
    x1, y1, x2, y2 = patch
    return [
        (x1 + left, y1 + top, x1 + right, y1 + bottom)
        for top, bottom in _spans(y2 - y1)
        for left, right in _spans(x2 - x1)
    ]


def _spans(length: int) -> list[tuple[int, int]]:
    """Divide a side evenly into overlapping spans of at most a tile."""
    count = 1 if length <= TILE else -(-(length - OVERLAP) // (TILE - OVERLAP))
    step = (length - OVERLAP) / count
    return [(round(n * step), min(round(n * step + step) + OVERLAP, length)) for n in range(count)]
