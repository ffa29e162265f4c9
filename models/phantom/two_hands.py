"""Draw two hands on one film, in every arrangement that two children's hands are laid, scanned or stitched in."""

from typing import Final, Literal

import numpy as np

from models.image import Image
from models.phantom.canvas import Array
from models.phantom.film import draw
from models.regions import Laterality

Arrangement = Literal["beside", "above", "diagonal", "upside down", "cut off", "same side"]
ARRANGEMENTS: Final[tuple[Arrangement, ...]] = ("beside", "above", "diagonal", "upside down", "cut off", "same side")
_OVERLAP: Final = 0.12  # of each side, by which the plates of a diagonal pair reach into one another
_CUT: Final = (0.45, 0.75)  # share of the second hand's plate that is left where the film cuts it off


def two_hands(arrangement: Arrangement, seed: int, *, rows: int = 500, columns: int = 400) -> Image:
    """Draw two hands from a seed; bone bright.

    Parameters
    ----------
    arrangement
        "beside" and "above": a left and a right hand, in either order. "diagonal": one exposure, the plates overlap.
        "upside down": one of them the other way up, beside or below. "cut off": a whole left hand and a part of a right one.
        "same side": two left hands.
    rows, columns
        Size of one hand's plate; the film is as large as the arrangement makes it.

    Raises
    ------
    ValueError
        When the arrangement is unknown.
    """
    if arrangement not in ARRANGEMENTS:
        raise ValueError(f"no arrangement {arrangement!r} of two hands; there are {', '.join(ARRANGEMENTS)}")
    rng = np.random.default_rng((seed, ARRANGEMENTS.index(arrangement)))
    left = _hand(rng, "L", rows, columns)
    second: Laterality = "L" if arrangement == "same side" else "R"
    right = match(_hand(rng, second, rows, columns), left)
    if arrangement == "upside down":
        right = right[::-1, ::-1]
    if arrangement == "cut off":
        cut = round(rng.uniform(*_CUT) * columns)
        right = right[:, :cut]  # its thumb's side is what is left
    pair = (left, right) if arrangement == "cut off" or rng.random() < 0.5 else (right, left)
    if arrangement == "diagonal":
        film = _diagonal(*pair)
    else:
        below = arrangement == "above" or (arrangement == "upside down" and rng.random() < 0.5)
        film = np.concatenate(pair, axis=0 if below else 1)
    return Image(np.ascontiguousarray(film))


def match(film: Array, reference: Array) -> Array:
    """Give `film` the black and white levels of `reference`, since both hands are on one exposure."""
    low, high = np.percentile(film, [1, 99])
    to_low, to_high = np.percentile(reference, [1, 99])
    matched: Array = np.clip(to_low + (film - low) * (to_high - to_low) / max(float(high - low), 1e-3), 0, 1).astype(
        np.float32
    )
    return matched


def _hand(rng: np.random.Generator, side: Laterality, rows: int, columns: int) -> Array:
    seed = int(rng.integers(2**31))
    return draw(seed, laterality=side, rows=rows, columns=columns, furnished=False, collimated=False).image.pixels


def _diagonal(first: Array, second: Array) -> Array:
    """Lay one hand at the upper left, the other at the lower right; where the plates overlap the denser shadow is seen."""
    rows, columns = first.shape
    down, across = round((1 - _OVERLAP) * rows), round((1 - _OVERLAP) * columns)
    film = np.full((rows + down, columns + across), np.percentile(first, 1), np.float32)
    film[:rows, :columns] = first
    place = film[down:, across:]
    np.maximum(place, second, out=place)
    return film
