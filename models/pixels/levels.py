"""Scale grey levels by their own percentiles: the same film gives the same numbers from DICOM, PNG and WebP."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# The darkest and brightest thousandth (dead pixels, a lead marker's edge) do not decide the scale.
SCALE_PERCENTILES: Final = (0.1, 99.9)
_SAMPLE_PIXELS: Final = 1_000_000


def scale(values: NDArray[Any], excluded: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Scale grey levels (rows, columns) linearly to 0..1 between their 0.1 and 99.9 percentiles; a flat film becomes 0."""
    step = max(1, int((values.size / _SAMPLE_PIXELS) ** 0.5))
    sample = values[::step, ::step]
    if excluded is not None:
        sample = sample[~excluded[::step, ::step]]
    if sample.size == 0:
        return np.zeros(values.shape, np.float32)
    low, high = percentiles(sample, SCALE_PERCENTILES)
    if high <= low:  # nearly everything is one level: the rest, a marker, is all there is to show
        low, high = float(sample.min()), float(sample.max())
    if not np.isfinite(high - low) or high <= low:
        return np.zeros(values.shape, np.float32)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(1 / (high - low))
    return np.clip(scaled, 0, 1, out=scaled)


def percentiles(values: NDArray[Any], wanted: tuple[float, ...]) -> list[float]:
    """Return what `numpy.percentile` does, in a quarter of the time where the values are small unsigned integers: they are counted.

    Parameters
    ----------
    wanted
        Percentiles, 0 to 100; a value between two of the sorted ones is interpolated linearly.
    """
    if values.dtype not in (np.uint8, np.uint16):
        return [float(level) for level in np.percentile(values, wanted)]
    up_to = np.cumsum(np.bincount(values.ravel()))
    levels = []
    for percent in wanted:
        place = percent / 100 * (values.size - 1)
        below = int(place)
        first, second = np.searchsorted(up_to, (below, min(below + 1, values.size - 1)), side="right")
        rest = place - below
        # From the nearer of the two, as numpy does: else the last digit differs.
        levels.append(float(first + (second - first) * rest if rest < 0.5 else second - (second - first) * (1 - rest)))
    return levels
