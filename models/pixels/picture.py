"""Load a PNG, JPEG or WebP picture of a film."""

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.image import MAXIMUM_PIXELS, Image
from models.pixels.errors import DECODER_ERRORS, UnreadablePixels, first_line
from models.pixels.guards import check_png_stream, check_size
from models.pixels.levels import scale

# An RGB picture is a grey film when its channels agree within what JPEG's chroma quantisation adds.
_CHANNEL_TOLERANCE: Final = 8


def load_picture(path: Path) -> Image:
    """PNG, JPEG or WebP; an RGB picture of equal channels is a grey film."""
    import PIL.Image

    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
                check_size(picture.height, picture.width)
                if getattr(picture, "n_frames", 1) > 1:
                    raise UnreadablePixels(
                        "multi-frame",
                        f"{path.name} holds {getattr(picture, 'n_frames', 1)} frames; one film a file is read",
                    )
                levels, bits = _grey_levels(picture, path.name, notes)
                if picture.format == "PNG":
                    check_png_stream(path)
    except UnreadablePixels:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise UnreadablePixels(
            "too-large", f"{path.name}: {first_line(error)}; the limit is {MAXIMUM_PIXELS} pixels"
        ) from error
    except (*DECODER_ERRORS, SyntaxError) as error:  # Pillow's PNG reader raises SyntaxError on a broken chunk
        raise UnreadablePixels("undecodable", f"{path.name} could not be decoded: {first_line(error)}") from error
    return Image(pixels=scale(levels), bits_stored=bits, notes=tuple(notes))


def _grey_levels(picture: Any, name: str, notes: list[str]) -> tuple[NDArray[Any], int]:
    """Grey levels (rows, columns) and their depth; refuses what is coloured."""
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L")), 8
    if picture.mode.startswith("I"):  # 16 bit PNG
        return np.asarray(picture).astype(np.int32), 16
    if picture.mode == "CMYK":
        raise UnreadablePixels("colour", f"{name} is a CMYK picture; a grey film is needed")
    channels = np.asarray(picture.convert("RGBA")).astype(np.int16)
    colour, alpha = channels[..., :3], channels[..., 3]
    if int(alpha.min()) < 255:
        notes.append("transparent pixels were taken as black")
        colour = np.where(alpha[..., None] > 127, colour, 0)
    spread = float(np.percentile(colour.max(axis=2) - colour.min(axis=2), 99.5))
    if spread > _CHANNEL_TOLERANCE:
        raise UnreadablePixels(
            "colour",
            f"{name} is a colour picture (channels differ by {spread:.0f} levels; the limit is {_CHANNEL_TOLERANCE})",
        )
    return colour.mean(axis=2).astype(np.float32), 8
