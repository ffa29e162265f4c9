"""Draw what was read onto the film: 22 labelled regions coloured by stage, and the outlines of radius and ulna.

A pure function of a film and its Reading; the command line and the Secondary Capture show the same picture.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from models.image import Image
from models.reading import Mask, Reading, Region

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
UNGRADED: Final = (170, 170, 170)
OUTLINES: Final = {"radius": (255, 140, 90), "ulna": (110, 205, 255)}


def draw(image: Image, reading: Reading, *, height: int = 1200) -> NDArray[np.uint8]:
    """Return the film with its findings, (height, columns, 3) RGB, aspect kept, bone bright.

    Parameters
    ----------
    height
        Rows of the result; text and lines keep their size on it whatever the size of the film.
    """
    scale = height / image.rows
    columns = max(1, round(image.columns * scale))
    canvas = Picture.fromarray(_window(image, reading)).resize((columns, height), Picture.Resampling.LANCZOS)
    canvas = canvas.convert("RGB")
    for name, mask in reading.masks.items():
        _outline(canvas, mask, image, OUTLINES.get(name, UNGRADED))
    pen = ImageDraw.Draw(canvas)
    size = max(10, round(height / 75))
    font = ImageFont.load_default(size)
    for region in sorted(reading.regions, key=lambda region: region.box[1]):
        _region(pen, region, scale, font, canvas.size)
    footer = FOOTER if reading.verdict.accepted else f"not read - {FOOTER}"
    _text(pen, (size // 2, height - round(1.8 * size)), footer, font, (255, 255, 255))
    return np.asarray(canvas, dtype=np.uint8)


def describe(region: Region) -> str:
    """Return the label of a region: its name, RUS-CHN stage and TW3 letter, and how sure the grader is."""
    if region.stage is None:
        return region.name
    return f"{region.name} {region.stage.label} {region.stage.letter} {100 * region.stage.probability:.0f}%"


def _window(image: Image, reading: Reading) -> NDArray[np.uint8]:
    """Stretch the grey levels between the 0.5th and the 99.5th percentile; bone dark films are inverted."""
    pixels = 1 - image.pixels if reading.image.polarity == "bone dark" else image.pixels
    low, high = np.percentile(pixels, (0.5, 99.5))
    grey: NDArray[np.uint8] = (255 * np.clip((pixels - low) / max(float(high - low), 1e-6), 0, 1)).astype(np.uint8)
    return grey


def _outline(canvas: Picture.Image, mask: Mask, image: Image, colour: tuple[int, int, int]) -> None:
    """Paint the inner border of a mask, two pixels wide."""
    full = Picture.fromarray(mask.to_array(image.rows, image.columns).astype(np.uint8) * 255)
    inside = np.asarray(full.resize(canvas.size, Picture.Resampling.BILINEAR)) > 127
    core = inside.copy()
    for _ in range(2):
        padded = np.pad(core, 1, constant_values=True)  # the film's own edge is no border of the bone
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    canvas.paste(colour, mask=Picture.fromarray((inside & ~core).astype(np.uint8) * 255))


def _region(
    pen: ImageDraw.ImageDraw,
    region: Region,
    scale: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    colour = STAGE_COLOURS.get(region.stage.letter, UNGRADED) if region.stage else UNGRADED
    x1, y1, x2, y2 = (value * scale for value in region.box)
    pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=2 if region.stage else 1)
    text = describe(region)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    x = min(max(0.0, x1), max(0.0, size[0] - (right - left) - 4))
    y = y1 - (bottom - top) - 8
    _text(pen, (x, y if y >= 0 else y2 + 2), text, font, colour)


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
