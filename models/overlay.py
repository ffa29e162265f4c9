"""Draw what was read onto the film: 22 labelled regions coloured by stage, and the outlines of radius and ulna.

A pure function of a film and its Reading; the command line and the Secondary Capture show the same picture.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from models.image import Image
from models.reading import CONTRADICTED, Mask, Reading, Region

Rectangle = tuple[float, float, float, float]
FOOTER: Final = "Carpus - for research, not for clinical use"
# Letter A (absent) to I (fused): dark violet over green to yellow, evenly bright steps that colour-blind readers tell apart.
STAGE_COLOURS: Final = {
    "A": (158, 122, 222),
    "B": (124, 133, 226),
    "C": (96, 152, 221),
    "D": (71, 175, 209),
    "E": (58, 196, 184),
    "F": (86, 212, 142),
    "G": (144, 221, 95),
    "H": (203, 222, 62),
    "I": (253, 214, 58),
}
SAMPLED_SIDE: Final = 350  # pixels a side that are enough to find the percentiles of a film's grey levels
UNGRADED: Final = (170, 170, 170)
OUTLINES: Final = {"radius": (255, 140, 90), "ulna": (110, 205, 255)}


def draw(image: Image, reading: Reading, *, height: int = 1200, footer: bool = True) -> NDArray[np.uint8]:
    """Return the film with its findings, (height, columns, 3) RGB, aspect kept, bone bright.

    Parameters
    ----------
    height
        Rows of the result; text and lines keep their size on it whatever the size of the film.
    footer
        Whether the film says what it is not for; left out where words beside it do.
    """
    scale = height / image.rows
    columns = max(1, round(image.columns * scale))
    canvas = Picture.fromarray(_window(image, reading)).resize((columns, height), Picture.Resampling.LANCZOS)
    canvas = canvas.convert("RGB")
    for name, mask in reading.masks.items():
        _outline(canvas, mask, image, OUTLINES.get(name, UNGRADED))
    pen = ImageDraw.Draw(canvas)
    size = max(10, round(height / 75))
    font, small = _font(size), _font(max(9, round(0.85 * size)))
    for region in reading.regions:
        _box(pen, region, scale)
    taken: list[Rectangle] = []
    # What carries a stage is labelled first and so has the better place.
    for region in sorted(reading.regions, key=lambda region: (region.stage is None, region.box[1])):
        _label(pen, region, scale, small if region.stage is None else font, canvas.size, taken)
    if footer:
        said = FOOTER if reading.verdict.accepted else f"not read - {FOOTER}"
        _text(pen, (size // 2, height - round(1.8 * size)), said, font, (255, 255, 255))
    return np.asarray(canvas, dtype=np.uint8)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # unpacked and parsed at every call


def describe(region: Region) -> str:
    """Return the label of a region: its name, RUS-CHN stage and TW3 letter, and how sure the grader is.

    A stage without a runner-up was given by a person, of whom no probability is known. "!" marks one that the other bones
    contradict.
    """
    if region.stage is None:
        return region.name
    mark = " !" if CONTRADICTED in region.flags else ""
    sure = "" if region.stage.runner_up is None else f" {100 * region.stage.probability:.0f}%"
    return f"{region.name} {region.stage.label} {region.stage.letter}{sure}{mark}"


def _window(image: Image, reading: Reading) -> NDArray[np.uint8]:
    """Stretch the grey levels between the 0.5th and the 99.5th percentile; bone dark films are inverted."""
    pixels = 1 - image.pixels if reading.image.polarity == "bone dark" else image.pixels
    step = max(1, min(pixels.shape) // SAMPLED_SIDE)
    low, high = np.percentile(pixels[::step, ::step], (0.5, 99.5))
    stretched = pixels - np.float32(low)
    stretched *= np.float32(255 / max(float(high - low), 1e-6))
    grey: NDArray[np.uint8] = np.clip(stretched, 0, 255, out=stretched).astype(np.uint8)
    return grey


def _outline(canvas: Picture.Image, mask: Mask, image: Image, colour: tuple[int, int, int]) -> None:
    """Paint the inner border of a mask, two pixels wide; only what lies around the mask is looked at."""
    full = Picture.fromarray(mask.to_array(image.rows, image.columns).astype(np.uint8) * 255)
    across, down = canvas.width / image.columns, canvas.height / image.rows
    x1, y1, x2, y2 = mask.box
    left, top = max(0, int(x1 * across) - 2), max(0, int(y1 * down) - 2)
    right, bottom = min(canvas.width, int(x2 * across) + 3), min(canvas.height, int(y2 * down) + 3)
    around = (left / across, top / down, min(right / across, image.columns), min(bottom / down, image.rows))
    part = full.resize((right - left, bottom - top), Picture.Resampling.BILINEAR, box=around)
    inside = np.asarray(part) > 127
    core = inside.copy()
    for _ in range(2):
        padded = np.pad(core, 1, constant_values=True)  # the film's own edge is no border of the bone
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border = Picture.fromarray((inside & ~core).astype(np.uint8) * 255)
    canvas.paste(colour, (left, top, right, bottom), mask=border)


def _box(pen: ImageDraw.ImageDraw, region: Region, scale: float) -> None:
    x1, y1, x2, y2 = (value * scale for value in region.box)
    pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=_colour(region), width=2 if region.stage else 1)


def _colour(region: Region) -> tuple[int, int, int]:
    return STAGE_COLOURS.get(region.stage.letter, UNGRADED) if region.stage else UNGRADED


def _label(
    pen: ImageDraw.ImageDraw,
    region: Region,
    scale: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    taken: list[Rectangle],
) -> None:
    """Write what a region is at the side of its box where it covers no other label, or the least of one."""
    text = describe(region)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x1, y1, x2, y2 = (value * scale for value in region.box)
    places = [
        *((x1, y1 - height - 3), (x2 - width, y1 - height - 3), (x1, y2 + 3), (x2 - width, y2 + 3)),
        *((x2 + 3, y1), (x1 - width - 3, y1), (x2 + 3, y2 - height), (x1 - width - 3, y2 - height)),
        (x1 + 3, y1 + 3),
    ]
    inside = [
        (min(max(0.0, x), max(0.0, size[0] - width)), min(max(0.0, y), max(0.0, size[1] - height))) for x, y in places
    ]
    x, y = min(inside, key=lambda place: sum(_overlap((*place, place[0] + width, place[1] + height), t) for t in taken))
    taken.append((x, y, x + width, y + height))
    _text(pen, (x + 2 - left, y + 2 - top), text, font, _colour(region))


def _overlap(a: Rectangle, b: Rectangle) -> float:
    """Return the area that two rectangles (x1, y1, x2, y2) share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _text(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: tuple[int, int, int],
) -> None:
    left, top, right, bottom = pen.textbbox(place, text, font=font)
    pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=(0, 0, 0))
    pen.text(place, text, font=font, fill=colour)
