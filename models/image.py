"""Hold one radiograph in the form every method receives it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.regions import Laterality

# A hand film is at most about 4,300 x 3,500; the limit keeps a hostile header from asking for gigabytes.
MAXIMUM_PIXELS = 64_000_000
MINIMUM_SIDE = 32


@dataclass(frozen=True, slots=True)
class Image:
    """One film, grey levels as the header says they are to be shown.

    Parameters
    ----------
    pixels
        (rows, columns) float32 in 0..1; bone is bright when the header tells the truth about its polarity
        (a MONOCHROME1 film is already inverted here). `models.detection` decides from the pixels whether it does.
    photometric_interpretation
        MONOCHROME1 or MONOCHROME2, as received.
    bits_stored
        Depth of the stored samples, as received.
    pixel_spacing_mm
        (row spacing, column spacing) in the plane of the detector, or None when the source states none.
    laterality
        L or R as the header says, or None.

    Raises
    ------
    ValueError
        When the array is not a two-dimensional float32 film within the stated limits.
    """

    pixels: NDArray[np.float32]
    photometric_interpretation: str = "MONOCHROME2"
    bits_stored: int = 8
    pixel_spacing_mm: tuple[float, float] | None = None
    laterality: Laterality | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check once, so that every later step can trust the array."""
        if self.pixels.ndim != 2 or self.pixels.dtype != np.float32:
            raise ValueError(
                f"pixels are {self.pixels.dtype} {self.pixels.shape}; a two-dimensional float32 array is needed"
            )
        rows, columns = self.pixels.shape
        if min(rows, columns) < MINIMUM_SIDE:
            raise ValueError(f"film of {rows} x {columns} pixels; the shorter side must be at least {MINIMUM_SIDE}")
        if rows * columns > MAXIMUM_PIXELS:
            raise ValueError(f"film of {rows} x {columns} pixels; the limit is {MAXIMUM_PIXELS} pixels")

    @property
    def rows(self) -> int:
        """Number of rows of the film as received."""
        return int(self.pixels.shape[0])

    @property
    def columns(self) -> int:
        """Number of columns of the film as received."""
        return int(self.pixels.shape[1])
