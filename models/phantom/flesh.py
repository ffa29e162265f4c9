"""Wrap the bones in soft tissue: overlapping round limbs whose union is the skin, and the muscle of the thumb."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from models.phantom.canvas import Array, View, enlarge
from models.phantom.skeleton import Bone, Build

STEP: Final = 4  # film pixels per sample of the depth field; it is smooth and interpolated
_BLEND_MM: Final = 3.0


@dataclass(frozen=True, slots=True)
class Limb:
    """A tapered round limb between two points of the hand's plane; mm."""

    start: tuple[float, float]
    start_radius: float
    end: tuple[float, float]
    end_radius: float
    flatness: float = 0.85  # depth over width of its section


def limbs(bones: dict[str, Bone], build: Build, plumpness: float, forearm_degrees: float) -> list[Limb]:
    """Return the limbs of the hand; the first ones (fingers, palm) bound what must lie on the film, the last is the forearm."""
    width = build.width
    fat = plumpness * width
    result: list[Limb] = []
    for ray in "12345":
        chain = [bones[f"{row}{ray}"] for row in ("pp", "mp", "dp") if f"{row}{ray}" in bones]
        points = [bone.at(0.0, -0.5 * bone.slot_mm) for bone in chain]
        radii = [0.5 * bone.metaphysis_mm + fat * (4.0 if i == 0 else 3.2) for i, bone in enumerate(chain)]
        last = chain[-1]
        points.append(last.at(0.0, last.shaft_mm - 0.5 * last.far_mm))
        radii.append(0.5 * last.far_mm + fat * 3.0 + 0.4)
        for i in range(len(points) - 1):
            result.append(Limb(points[i], radii[i], points[i + 1], radii[i + 1]))
    heads = {ray: bones[f"mc{ray}"].at(0.0, 0.0) for ray in "2345"}
    feet = {ray: bones[f"mc{ray}"].at(0.0, bones[f"mc{ray}"].shaft_mm) for ray in "2345"}
    for ray in "2345":
        result.append(Limb(feet[ray], 11.5 * width + fat, heads[ray], 9.0 * width + fat, 1.05))
        first = bones[f"pp{ray}"]
        result.append(Limb(heads[ray], 9.0 * width + fat, first.at(0.0, 0.1 * first.shaft_mm), 8.2 * width + fat, 0.95))
    for a, b in (("2", "3"), ("3", "4"), ("4", "5")):
        web = [bones[f"pp{ray}"].at(0.0, 0.18 * bones[f"pp{ray}"].shaft_mm) for ray in (a, b)]
        result.append(Limb(web[0], 8.0 * width, web[1], 8.0 * width, 1.0))
        between = (0.5 * (web[0][0] + web[1][0]), 0.5 * (web[0][1] + web[1][1]))
        knuckles = (0.5 * (heads[a][0] + heads[b][0]), 0.5 * (heads[a][1] + heads[b][1]))
        palm = (0.5 * (feet[a][0] + feet[b][0]), 0.5 * (feet[a][1] + feet[b][1]))
        result.append(Limb(knuckles, 11.0 * width, between, 8.0 * width, 0.95))
        result.append(Limb(knuckles, 11.0 * width, palm, 12.5 * width, 0.95))
        result.append(Limb(heads[a], 12.0 * width, heads[b], 12.0 * width, 0.9))
        middles = [bones[f"mc{ray}"].at(0.0, 0.45 * bones[f"mc{ray}"].shaft_mm) for ray in (a, b)]
        result.append(Limb(middles[0], 12.0 * width, middles[1], 12.0 * width, 0.9))
    thumb = bones["mc1"]
    foot, head = thumb.at(0.0, 0.0), thumb.at(0.0, thumb.shaft_mm)
    result.append(Limb(foot, 12.5 * width + fat, head, 9.0 * width + fat, 1.0))
    second = bones["mc2"]
    for share, radius in ((0.30, 11.0), (0.62, 10.0), (0.90, 8.0)):
        inner = second.at(0.0, second.shaft_mm * (1.0 - share))
        result.append(Limb(thumb.at(0.0, thumb.shaft_mm * share), radius * width, inner, radius * width, 1.25))
    turn = np.deg2rad(forearm_degrees)
    down = (float(-np.sin(turn)), float(np.cos(turn)))

    def wrist(x: float, y: float) -> tuple[float, float]:
        return (
            width * float(x * np.cos(turn) - (y - 12) * np.sin(turn)),
            width * (12 + float(x * np.sin(turn) + (y - 12) * np.cos(turn))),
        )

    result.append(Limb((0.0, 3.0 * width), 22.5 * width + fat, wrist(-3.0, 24.0), 24.0 * width + fat, 0.78))
    result.append(Limb(feet["5"], 9.5 * width + fat, wrist(-17.0, 26.0), 10.0 * width + fat, 1.3))
    result.append(Limb(foot, 12.0 * width + fat, wrist(13.0, 30.0), 12.5 * width + fat, 1.3))
    elbow = wrist(-6.0, 46.0)
    reach = 170.0 * build.length
    result.append(Limb(wrist(-4.0, 26.0), 24.0 * width + fat, wrist(-5.0, 46.0), 26.5 * width + fat, 0.70))
    result.append(
        Limb(
            elbow,
            26.5 * width + fat,
            (elbow[0] + reach * down[0], elbow[1] + reach * down[1]),
            38.0 * width + 2 * fat,
            0.70,
        )
    )
    return result


def _deepest(
    depth: Array, radius: Array, more_depth: Array, more_radius: Array, blend: np.float32
) -> tuple[Array, Array]:
    """Merge two limbs into one skin without a crease (polynomial smooth maximum)."""
    h = np.clip(np.float32(0.5) + np.float32(0.5) * (more_depth - depth) / blend, 0, 1)
    merged = depth + (more_depth - depth) * h + blend * h * (1 - h)
    return merged, radius + (more_radius - radius) * h


def thickness(view: View, shape: tuple[int, int], parts: list[Limb], muscle: list[Limb]) -> Array:
    """Return the soft tissue in the beam's path, mm, for every pixel of a film of `shape` (rows, columns)."""
    rows, columns = shape
    height, width = (rows - 1) // STEP + 2, (columns - 1) // STEP + 2
    inverse = np.linalg.inv(view.matrix)
    px = np.arange(width) * STEP - view.offset[0]
    py = np.arange(height) * STEP - view.offset[1]
    x = (px * inverse[0, 0])[None, :].astype(np.float32) + (py * inverse[0, 1])[:, None].astype(np.float32)
    y = (px * inverse[1, 0])[None, :].astype(np.float32) + (py * inverse[1, 1])[:, None].astype(np.float32)
    depth = np.full((height, width), -30.0, dtype=np.float32)
    radius = np.full((height, width), 8.0, dtype=np.float32)
    blend = np.float32(_BLEND_MM)
    for limb in parts:
        patch = _patch(view, limb, (height, width))
        if patch is None:
            continue
        inside, r = _limb(limb, x[patch], y[patch])
        depth[patch], radius[patch] = _deepest(
            depth[patch], radius[patch], inside, r * np.float32(limb.flatness), blend
        )
    extra = np.zeros_like(depth)
    for limb in muscle:
        patch = _patch(view, limb, (height, width))
        if patch is None:
            continue
        inside, r = _limb(limb, x[patch], y[patch])
        m = np.clip(inside / r, 0, 1)
        extra[patch] = np.maximum(extra[patch], np.float32(limb.flatness) * r * m * (2 - m))
    extra = gaussian_filter(extra, 2.2 * view.pixels_per_mm / STEP)
    full = np.clip(enlarge(depth, STEP, rows, columns), 0, None)
    # `radius` is the depth of the limb's section; the section is an ellipse, reached at its full depth one radius from the skin.
    r = enlarge(radius, STEP, rows, columns)
    m = np.minimum(full / (np.float32(0.8) * r), 1)
    muscle_mm = enlarge(extra, STEP, rows, columns) * (full > 0)
    result: Array = 2 * r * np.sqrt(m * (2 - m)) + muscle_mm
    return result


def _patch(view: View, limb: Limb, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    points = np.array([view.point(limb.start), view.point(limb.end)]) / STEP
    margin = (max(limb.start_radius, limb.end_radius) + 2 * _BLEND_MM) * view.pixels_per_mm / STEP
    x1, y1 = np.maximum(np.floor(points.min(0) - margin).astype(int), 0)
    x2, y2 = np.minimum(np.ceil(points.max(0) + margin).astype(int) + 1, (shape[1], shape[0]))
    if x1 >= x2 or y1 >= y2:
        return None
    return slice(int(y1), int(y2)), slice(int(x1), int(x2))


def _limb(limb: Limb, x: Array, y: Array) -> tuple[Array, Array]:
    """Return the depth below the limb's skin and its radius there, mm."""
    dx, dy = limb.end[0] - limb.start[0], limb.end[1] - limb.start[1]
    length = max(dx * dx + dy * dy, 1e-6)
    along = np.clip(
        ((x - np.float32(limb.start[0])) * np.float32(dx) + (y - np.float32(limb.start[1])) * np.float32(dy)) / length,
        0,
        1,
    )
    r = np.float32(limb.start_radius) + np.float32(limb.end_radius - limb.start_radius) * along
    away = np.hypot(x - np.float32(limb.start[0]) - dx * along, y - np.float32(limb.start[1]) - dy * along)
    return (r - away).astype(np.float32), r.astype(np.float32)


def thenar(bones: dict[str, Bone], width: float, plumpness: float) -> list[Limb]:
    """Return the muscle at the base of the thumb and on the other side of the palm, which brighten the film there."""
    thumb, second, fifth = bones["mc1"], bones["mc2"], bones["mc5"]
    middle = thumb.at(0.0, 0.55 * thumb.shaft_mm)
    inner = second.at(0.0, 0.55 * second.shaft_mm)
    centre = (0.62 * middle[0] + 0.38 * inner[0], 0.62 * middle[1] + 0.38 * inner[1])
    low = fifth.at(0.0, fifth.shaft_mm * 0.9)
    bulk = 0.32 + 0.10 * plumpness
    return [
        Limb((9.0 * width, 12.0 * width), 11.0 * width, centre, 15.0 * width, bulk),
        Limb(low, 10.0 * width, fifth.at(0.0, 0.35 * fifth.shaft_mm), 7.0 * width, 0.5 * bulk),
    ]


def bounds(parts: list[Limb], forearm_mm: float) -> NDArray[np.float64]:
    """Return points on the skin's bounding circles, (n, 2) mm, of everything but the far forearm."""
    points: list[tuple[float, float]] = []
    for limb in parts[:-1]:
        for (x, y), r in ((limb.start, limb.start_radius), (limb.end, limb.end_radius)):
            points += [(x - r, y), (x + r, y), (x, y - r), (x, y + r)]
    arm = parts[-1]
    length = float(np.hypot(arm.end[0] - arm.start[0], arm.end[1] - arm.start[1]))
    share = min(forearm_mm / length, 1.0)
    x, y = (arm.start[i] + share * (arm.end[i] - arm.start[i]) for i in (0, 1))
    points += [(x - arm.start_radius, y), (x + arm.start_radius, y)]
    return np.array(points)
