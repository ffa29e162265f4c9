"""Write on films what must not be there, as devices and people do: grey or white, any size, turned or mirrored."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CHINESE = Path(__file__).parents[1] / "service/reporting/fonts/droid-sans-fallback-gb2312.ttf"


@cache
def font(size: int, *, chinese: bool) -> Any:
    return ImageFont.truetype(CHINESE, size) if chinese else ImageFont.load_default(size)


def ink(text: str, size: int, *, turns: int = 0, mirrored: bool = False) -> NDArray[np.float32]:
    """Return a line of text as ink, 0 to 1, (rows, columns), cropped; the font is `size` pixels."""
    chosen = font(size, chinese=not text.isascii())
    x1, y1, x2, y2 = chosen.getbbox(text)
    picture = Image.new("L", (int(x2 - x1) + 4, int(y2 - y1) + 4))
    ImageDraw.Draw(picture).text((2 - x1, 2 - y1), text, fill=255, font=chosen)
    drawn = np.asarray(picture, np.float32) / 255
    return np.ascontiguousarray(np.rot90(drawn[:, ::-1] if mirrored else drawn, turns))


def write(film: NDArray[Any], written: NDArray[np.float32], x: int, y: int, level: float) -> tuple[int, int, int, int]:
    """Put ink of a level on a film (rows, columns) in place; return the box x1 y1 x2 y2."""
    rows, columns = written.shape
    part = film[y : y + rows, x : x + columns]
    part[...] = np.rint(part * (1 - written) + level * written).astype(film.dtype)
    return x, y, x + columns, y + rows
