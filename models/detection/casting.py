"""Lay casts over upright views of hands and splints along fingers, real ones too: no archive at hand holds films of either.

The wall is what a tube around the limb is in the beam: long at its sides, short in its middle. Plaster and fibreglass, whole
casts and half shells, with or without the thumb or two fingers, ending anywhere from the wrist to the knuckles.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.detection.cast import CELLS, SIDE
from models.detection.conventions import CHANNEL
from models.reading import Box

Levels = NDArray[np.float32]
Array = NDArray[np.float64]
_SEEN: Final = 0.05  # grey levels the wall must add in the mean over a cell that counts as covered
_FINGERS: Final = {"mitten": (2, 3, 4, 5), "gutter": (4, 5)}


def lay(rng: np.random.Generator, view: Levels, points: Array) -> tuple[Levels, Levels]:
    """Return the view with a cast over it, and the (CELLS, CELLS) share of each cell that lies under it.

    Parameters
    ----------
    view
        (2, SIDE, SIDE) grey levels 0..1, bone bright, and where the film is.
    points
        (89, 2) in fractions of the view, all finite.
    """
    limbs = _limbs(rng, points)
    padding, depth = float(rng.uniform(0.004, 0.022)), float(rng.uniform(0.012, 0.035))
    inner, outer = _through(limbs, padding), _through(limbs, padding + depth)
    wall: NDArray[np.floating] = (
        np.maximum(outer - inner, 0) / depth
    )  # about 2 in the middle, several times that at the sides
    if rng.random() < 0.25:  # a half shell: as thick everywhere, without the sides
        wall = 2.0 * (outer > 0) * rng.uniform(0.6, 1.0)
    wall = wall * _texture(rng)
    if rng.random() < 0.3:  # its end is not cut straight
        ragged = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 4.0)
        wall = wall * (ragged > np.quantile(ragged, 0.04))
    wall = ndimage.gaussian_filter(wall, float(rng.uniform(0.3, 0.9)))
    strength = float(np.exp(rng.uniform(np.log(0.08), np.log(0.5))))
    grey, film = view[0], view[1]
    top = float(rng.uniform(0.9, 1.1))
    covered = top - (top - grey) * np.exp(-strength * wall)
    label = (outer > 0) & (covered - grey > _SEEN) & (film > 0.5)
    mixed = np.clip(covered, 0, None)
    mixed = np.clip(mixed / max(float(np.percentile(mixed[film > 0.5], 99.5)), 0.2), 0, 1) * film
    share = label.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).mean(axis=(1, 3))
    return np.stack([mixed, film]).astype(np.float32), share.astype(np.float32)


def splint(rng: np.random.Generator, pixels: Levels, boxes: Mapping[str, Box], names: tuple[str, ...]) -> Levels:
    """Return a film with a splint along one finger: a strip as wide as the finger, now and then with thicker edges.

    Parameters
    ----------
    pixels
        The film, bone bright.
    names
        The finger's regions from the palm to the tip.
    """
    stated = np.array([boxes[name] for name in names])
    middles, sides = (stated[:, :2] + stated[:, 2:]) / 2, (stated[:, 2:] - stated[:, :2]).mean(axis=1)
    ways = np.diff(middles, axis=0)
    start = middles[0] - rng.uniform(0.0, 0.5) * ways[0] if rng.random() < 0.7 else (middles[0] + middles[1]) / 2
    end = middles[-1] + rng.uniform(0.55, 0.9) * ways[-1]
    half = float(rng.uniform(0.42, 0.6) * sides.mean())
    y, x = np.arange(pixels.shape[0])[:, None], np.arange(pixels.shape[1])[None, :]
    away = np.full(pixels.shape, np.inf)
    for one, other in pairwise((start, *middles[1:], end)):
        way = other - one
        share = np.clip(((x - one[0]) * way[0] + (y - one[1]) * way[1]) / max(float(way @ way), 1e-9), 0, 1)
        away = np.minimum(away, np.hypot(x - one[0] - share * way[0], y - one[1] - share * way[1]))
    wall = np.where(away < half, float(rng.uniform(0.2, 0.6)), 0.0)
    if rng.random() < 0.4:
        wall = np.where((away < half) & (away > 0.85 * half), np.maximum(wall, 0.6), wall)
    wall = ndimage.gaussian_filter(wall, 0.03 * half)
    top = float(np.percentile(pixels, 99.9))
    covered: Levels = (pixels + np.maximum(top - pixels, 0) * wall).astype(np.float32)
    return covered


def _limbs(rng: np.random.Generator, points: Array) -> list[tuple[Array, Array, float]]:
    """Return the tapered limbs inside the cast: two ends and a radius, fractions of the view."""

    def at(name: str) -> Array:
        place: Array = points[CHANNEL[name]]
        return place

    radius, ulna, carpus = at("radius"), at("ulna"), at("carpus")
    wrist = (radius + ulna) / 2
    along = (wrist - carpus) / max(float(np.hypot(*(wrist - carpus))), 1e-6)
    thick = float(np.hypot(*(radius - ulna))) * float(rng.uniform(0.85, 1.1))
    limbs = [(wrist + rng.uniform(0.15, 0.6) * along, carpus, thick)]
    if rng.random() < 0.9:
        reach = float(rng.uniform(0.2, 1.0))
        ends = [carpus + reach * (at(f"mc{ray}") - carpus) for ray in range(2, 6)]
        limbs += [(carpus, end, 0.75 * thick) for end in ends]
        limbs += [(one, other, 0.6 * thick) for one, other in pairwise(ends)]
        beyond = rng.random()
        if beyond < 0.25:
            for ray in _FINGERS["mitten" if beyond < 0.08 else "gutter"]:
                tip = at(f"tip{ray}") if rng.random() < 0.6 else at(f"mp{ray}")
                limbs += [(ends[ray - 2], at(f"pp{ray}"), 0.5 * thick), (at(f"pp{ray}"), tip, 0.4 * thick)]
    if rng.random() < 0.3:
        limbs += [(at("cmc1"), at("mcp1"), 0.5 * thick), (at("mcp1"), at("ip1"), 0.45 * thick)]
    return limbs


def _through(limbs: list[tuple[Array, Array, float]], more: float) -> Array:
    """Return the way of the beam through the limbs, each wider by `more`; (SIDE, SIDE), fractions of the view."""
    grid = (np.arange(SIDE) + 0.5) / SIDE
    x, y = grid[None, :], grid[:, None]
    deepest = np.zeros((SIDE, SIDE))
    for start, end, thick in limbs:
        way = end - start
        share = np.clip(((x - start[0]) * way[0] + (y - start[1]) * way[1]) / max(float(way @ way), 1e-9), 0, 1)
        away = (x - start[0] - share * way[0]) ** 2 + (y - start[1] - share * way[1]) ** 2
        deepest = np.maximum(deepest, 2 * np.sqrt(np.maximum((thick + more) ** 2 - away, 0)))
    return deepest


def _texture(rng: np.random.Generator) -> Array:
    """Return folds of plaster or the mesh of fibreglass, about 1."""
    blur = (float(rng.uniform(0.4, 2.0)), float(rng.uniform(0.4, 5.0)))
    noise = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), blur)
    texture: Array = 1 + float(rng.uniform(0.0, 0.2)) * noise / max(float(noise.std()), 1e-6)
    return texture
