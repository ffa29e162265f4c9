"""Add what lies on a film beside the hand: lead markers, burned-in text, collimation, frames."""

import string
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from models.phantom.canvas import Array
from models.reading import Box


@dataclass(frozen=True, slots=True)
class Text:
    """A text on the film: a lead `marker` in the beam or `burned` into the pixels afterwards."""

    kind: str
    text: str
    box: Box


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _stamp(text: str, size: int, degrees: float, spacing: int = 4) -> Array:
    """Return a text as a picture, 0..1, cropped to its ink."""
    probe = ImageDraw.Draw(Picture.new("L", (1, 1)))
    stroke = max(1, size // 22)  # it widens the lines and their distance, so the box must know it
    x1, y1, x2, y2 = probe.multiline_textbbox(
        (0, 0), text, font=_font(size), spacing=spacing, align="center", stroke_width=stroke
    )
    picture = Picture.new("L", (int(x2 - x1) + 4, int(y2 - y1) + 4))
    ImageDraw.Draw(picture).multiline_text(
        (2 - x1, 2 - y1),
        text,
        fill=255,
        font=_font(size),
        spacing=spacing,
        align="center",
        stroke_width=stroke,
        stroke_fill=255,
    )
    if degrees:
        picture = picture.rotate(degrees, expand=True, resample=Picture.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _free_place(
    rng: np.random.Generator, occupied: Array, height: int, width: int, margin: int
) -> tuple[int, int] | None:
    """Return the corner of a place off the hand, or None when there is none."""
    rows, columns = occupied.shape
    if rows - height - 2 * margin <= 0 or columns - width - 2 * margin <= 0:
        return None
    for _ in range(12):
        y = int(rng.integers(margin, rows - height - margin))
        x = int(rng.integers(margin, columns - width - margin))
        if not (occupied[y : y + height : 4, x : x + width : 4] > 0).any():
            return y, x
    return None


def lead_marker(rng: np.random.Generator, lead: Array, soft_mm: Array, side: str) -> Text | None:
    """Put the side's letter, with the initials of whoever took the film, on a free place; add it to `lead`."""
    rows = lead.shape[0]
    size = int(rows * rng.uniform(0.035, 0.075))
    initials = "".join(rng.choice(list(string.ascii_uppercase), int(rng.integers(2, 4))))
    text = f"{side}\n{initials}" if rng.random() < 0.6 else side
    degrees = float(rng.choice([0.0, rng.normal(0, 8), rng.uniform(-60, 60)]))
    stamp = _stamp(text, size, degrees)
    place = _free_place(rng, soft_mm, stamp.shape[0], stamp.shape[1], margin=6)
    if place is None:
        return None
    y, x = place
    height, width = stamp.shape
    patch = lead[y : y + height, x : x + width]
    patch += stamp * np.float32(2.4)
    if rng.random() < 0.7:
        # The plastic that carries the letters.
        pad = int(0.35 * size)
        y1, y2, x1, x2 = max(y - pad, 0), y + height + pad, max(x - pad, 0), x + width + pad
        lead[y1:y2, x1:x2] += np.float32(rng.uniform(0.02, 0.12))
    return Text("marker", text.replace("\n", " "), (float(x), float(y), float(x + width), float(y + height)))


def burned_text(rng: np.random.Generator, film: Array, text: str | None = None) -> Text | None:
    """Write a line into the pixels near a corner, as modalities do; returns where."""
    rows, columns = film.shape
    if text is None:
        text = str(
            rng.choice(["PA", "L HAND", "S2", "STANDING", "OD 1.2", "TEST^HAND", "AP 50kV 2mAs", "ID 0042", "PORTABLE"])
        )
    stamp = _stamp(text, max(9, int(rows * rng.uniform(0.012, 0.026))), 0.0)
    height, width = stamp.shape
    if height + 12 >= rows or width + 12 >= columns:
        return None
    y = 5 if rng.random() < 0.5 else rows - height - 6
    x = 5 if rng.random() < 0.5 else columns - width - 6
    patch = film[y : y + height, x : x + width]
    if rng.random() < 0.4:
        patch *= 1 - np.float32(0.9)
    np.maximum(patch, stamp, out=patch)
    return Text("burned", text, (float(x), float(y), float(x + width), float(y + height)))


def collimate(rng: np.random.Generator, film: Array, keep: Box, *, white: bool) -> Box:
    """Darken (shutter) or whiten (unexposed) everything outside a rectangle that leaves `keep` open; returns it."""
    rows, columns = film.shape
    open_box = (
        rng.uniform(0, max(keep[0], 1)),
        rng.uniform(0, max(keep[1], 1)),
        rng.uniform(min(keep[2], columns - 1), columns),
        rng.uniform(min(keep[3], rows - 1), rows),
    )
    soft = np.float32(rng.uniform(0.7, 9.0))
    x, y = np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)
    across = 1 / (1 + np.exp(-np.clip(np.minimum(x - open_box[0], open_box[2] - x) / soft, -30, 30)))
    down = 1 / (1 + np.exp(-np.clip(np.minimum(y - open_box[1], open_box[3] - y) / soft, -30, 30)))
    level = np.float32(rng.uniform(0.85, 1.0) if white else rng.uniform(0.0, 0.04))
    film -= level
    film *= across.astype(np.float32)[None, :]
    film *= down.astype(np.float32)[:, None]
    film += level
    return (float(open_box[0]), float(open_box[1]), float(open_box[2]), float(open_box[3]))


def frame(rng: np.random.Generator, film: Array) -> Box:
    """Leave a thin black or white edge on some sides, as scanners and cassettes do; returns what stays open."""
    level = np.float32(rng.choice([0.0, 0.95]))
    thick = int(rng.integers(1, max(2, film.shape[0] // 60)))
    opening = [0.0, 0.0, float(film.shape[1]), float(film.shape[0])]
    for side in rng.permutation(4)[: int(rng.integers(1, 5))]:
        edge = (film[:thick], film[-thick:], film[:, :thick], film[:, -thick:])[side]
        edge[...] = level
        opening[(1, 3, 0, 2)[side]] += (thick, -thick, thick, -thick)[side]
    return (opening[0], opening[1], opening[2], opening[3])
