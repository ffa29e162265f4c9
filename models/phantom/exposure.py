"""Turn bone and soft tissue into a film: attenuation, scatter, blur, quantum noise, the tone curve of the reader."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.ndimage import gaussian_filter

from models.phantom.canvas import Array, enlarge

# Effective linear attenuation at about 50 kV, per mm: soft tissue, and compact bone in place of it.
_SOFT_PER_MM: Final = 0.021
_BONE_PER_MM: Final = 0.078


@dataclass(frozen=True, slots=True)
class Exposure:
    """The physics and the look of one film."""

    blur_mm: float

    noise: float  # standard deviation of the attenuation in the open beam
    scatter: float  # fraction of the signal behind the hand that is scattered
    ramp: tuple[float, float]  # uneven field across x and y, as attenuation
    black: float  # grey level of the open beam, 0..1
    white: float  # grey level of the densest bone
    gamma: float
    knee: float  # 0 straight, 1 a strong S-shaped curve
    edge: float  # strength of the reader's edge enhancement
    bits: int

    @classmethod
    def sample(
        cls, rng: np.random.Generator, *, low_contrast: bool | None = None, noise: float | None = None
    ) -> "Exposure":
        """Draw the look of a film from what archives hold: mostly well exposed, some flat, some dark or pale."""
        flat = bool(rng.random() < 0.15) if low_contrast is None else low_contrast
        black = float(rng.uniform(0.0, 0.28) if rng.random() < 0.6 else rng.uniform(0.0, 0.06))
        span = float(rng.uniform(0.08, 0.25) if flat else rng.uniform(0.5, 0.95))
        drawn = float(np.exp(rng.uniform(np.log(0.003), np.log(0.02))))
        return cls(
            blur_mm=float(rng.uniform(0.07, 0.17)),
            noise=drawn if noise is None else noise,
            scatter=float(rng.uniform(0.05, 0.35)),
            ramp=(float(rng.normal(0, 0.03)), float(rng.normal(0, 0.03))),
            black=black,
            white=min(black + span, 1.0),
            gamma=float(np.exp(rng.normal(-0.25, 0.3))),
            knee=float(rng.uniform(0.0, 0.8)),
            edge=float(rng.uniform(0.2, 2.0)) if rng.random() < 0.6 else 0.0,
            bits=int(rng.choice([8, 10, 12, 12, 14, 15])),
        )


def _shrink(field: Array, step: int) -> Array:
    rows, columns = field.shape[0] // step * step, field.shape[1] // step * step
    blocks = field[:rows, :columns].reshape(rows // step, step, columns // step, step)
    means: Array = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _grow(field: Array, shape: tuple[int, int], step: int) -> Array:
    """Interpolate block means back to the film; the field is smooth, half a pixel is nothing to it."""
    below = 2 + shape[0] // step - field.shape[0]
    right = 2 + shape[1] // step - field.shape[1]
    padded = np.pad(field, ((1, below), (1, right)), mode="edge")
    half = step // 2
    return enlarge(padded, step, shape[0] + half, shape[1] + half)[half:, half:]


def expose(
    rng: np.random.Generator,
    soft_mm: Array,
    bone_mm: Array,
    lead: Array | None,
    exposure: Exposure,
    pixels_per_mm: float,
) -> Array:
    """Return the film, float32 in 0..1, bone bright.

    Parameters
    ----------
    soft_mm, bone_mm
        (rows, columns) soft tissue and compact bone in the beam's path, mm.
    lead
        Extra attenuation of lead markers, or None.
    pixels_per_mm
        Scale of the film, for the blur of focus and detector.
    """
    rows, columns = soft_mm.shape
    film = np.float32(_SOFT_PER_MM) * soft_mm
    film += np.float32(_BONE_PER_MM) * bone_mm
    step = 8
    coarse = np.exp(-_shrink(film, step))
    veil = gaussian_filter(coarse, 60.0 / step, truncate=2.5, mode="nearest")
    # Scatter adds a smooth veil: where the beam is weak it fills in, and bone there loses contrast.
    share = np.float32(0.35 * exposure.scatter)
    passed = np.exp(-film)
    if lead is not None:
        passed *= np.exp(-lead)
    passed += share * _grow(veil, (rows, columns), step)
    passed *= np.float32(1.0 / (1.0 + share))
    passed = gaussian_filter(passed, max(0.4, exposure.blur_mm * pixels_per_mm), truncate=2.5)
    # Quanta: the relative error grows as the square root of what is missing.
    noise = rng.standard_normal((rows, columns), dtype=np.float32)
    noise *= np.float32(exposure.noise) / np.sqrt(passed)
    film = -np.log(passed)
    film += noise
    film += np.linspace(-exposure.ramp[0], exposure.ramp[0], columns, dtype=np.float32)[None, :]
    film += np.linspace(-exposure.ramp[1], exposure.ramp[1], rows, dtype=np.float32)[:, None]
    if exposure.edge > 0:
        coarse = _shrink(film, step)
        smooth = gaussian_filter(coarse, 30.0 / step, truncate=2.5, mode="nearest")
        film += np.float32(exposure.edge * 0.5) * (film - _grow(smooth, (rows, columns), step))
    return tone(film, exposure)


def tone(film: Array, exposure: Exposure) -> Array:
    """Map attenuation to grey levels through a table, as a reader's processing does."""
    size = 4096
    low, high = -0.3, 2.2
    x = np.clip(np.linspace(low, high, size) / 1.4, 0.0, None)
    x = np.minimum(x, 1.6) ** exposure.gamma
    curve = x / (1.0 + 0.18 * x**3) ** (1 / 3)
    s = np.clip(x, 0, 1)
    curve = (1 - exposure.knee) * curve + exposure.knee * (s * s * (3 - 2 * s) + np.maximum(x - 1, 0) * 0.2)
    grey = np.clip(exposure.black + (exposure.white - exposure.black) * curve, 0.0, 1.0)
    # Below the open beam the curve has a toe: noise does not clip to one level.
    toe = np.linspace(low, high, size)
    grey = np.where(toe < 0, np.clip(exposure.black + toe * 0.3 * (exposure.white - exposure.black), 0, 1), grey)
    levels = float(2**exposure.bits - 1)
    table = (np.round(grey * levels) / levels).astype(np.float32)
    index = (film - np.float32(low)) * np.float32((size - 1) / (high - low))
    np.clip(index, 0, size - 1, out=index)
    return table.take(index.astype(np.int32))
