"""Rasterise tubular bones: a hollow shaft of compact bone with spongiosa at its ends, and its epiphysis.

Lengths are mm in the bone's frame: u to the thumb side, s from the metaphysis into the shaft (the epiphysis lies at s < 0).
Densities are mm of compact bone in the path of the beam, so that overlapping bones add as they do on a film.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.phantom.canvas import Array, Canvas, Window, lookup, texture
from models.phantom.epiphysis import Shape
from models.phantom.skeleton import Bone

_SAMPLES: Final = 257
_Table = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tissue:
    """What the bone of one child is made of."""

    cortex: float  # thickness of the compact wall at the waist over half the waist
    spongiosa: float  # density of trabecular bone at the ends, 0..1 of compact bone
    marrow: float  # the same in the middle of the shaft
    grain: float  # depth of the trabecular pattern
    per_mm: float  # its fineness, texture cells per mm
    rim_mm: float  # thickness of subchondral bone
    mineral: float  # density of all bone relative to the adult's


def plate(bone: Bone, x: NDArray[np.float64], ripple: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the metaphyseal end reaches beyond s = 0 towards the joint, mm, across x = -1..1 of its width."""
    half = 0.5 * bone.metaphysis_mm
    kind = bone.name[:2]
    mature = 0.0 if bone.shape is None else bone.shape.joint
    relief = {
        "mc": (0.06 * np.cos(2.2 * x) - 0.07 * np.exp(-((x / 0.28) ** 2))) * mature,
        "pp": -0.05 * x * x,
        "mp": 0.06 * np.cos(3.0 * x) * mature,
        "dp": -0.04 * x * x,
        "ra": 0.04 * np.exp(-((x + 0.15) ** 2) / 0.08) * mature - 0.07 * x * x + 0.02 * x,
        "ul": 0.05 * np.cos(2.5 * x) * mature - 0.03 * x,
    }[kind]
    # A young metaphysis is rounded at its edges.
    relief = relief - 0.16 * (1.0 - mature) * np.abs(x) ** 3
    wave = ripple[0] * x + ripple[1] * np.sin(4 * x + 6 * ripple[2]) + ripple[3] * np.sin(9 * x + 5 * ripple[2])
    values: NDArray[np.float64] = half * (relief + wave)
    return values


def _profile(bone: Bone) -> tuple[_Table, _Table, _Table]:
    """Return half widths, centre line and wall thickness fraction along the shaft, from the metaphysis to the far end."""
    z = np.linspace(0.0, 1.0, _SAMPLES)
    mm = z * bone.shaft_mm
    kind = bone.name[:2]
    half, waist, far = 0.5 * bone.metaphysis_mm, 0.5 * bone.waist_mm, 0.5 * bone.far_mm
    if kind in ("ra", "ul"):
        reach = (1.75 if kind == "ra" else 2.4) * bone.metaphysis_mm
        flare = np.clip(1.0 - mm / reach, 0.0, 1.0) ** (2.1 if kind == "ra" else 2.4)
        widths = waist + (half - waist) * flare
        centre = bone.bow_mm * np.sin(np.pi * np.clip(mm / 120.0, 0, 1))
        if kind == "ra":
            centre = centre - 0.12 * half * (1.0 - flare)  # the thumb side runs straighter than the other
        wall = np.clip(mm / (1.6 * bone.metaphysis_mm), 0.0, 1.0) ** 1.7
        return widths.astype(np.float32), centre.astype(np.float32), wall.astype(np.float32)
    narrow = {"mc": 0.52, "pp": 0.66, "mp": 0.66, "dp": 0.66}[kind]
    if bone.name == "mc1":
        narrow = 0.55
    power = {"mc": 1.8, "pp": 1.45, "mp": 1.4, "dp": 1.4}[kind]
    near = np.clip(1.0 - z / narrow, 0.0, 1.0) ** power
    share = np.clip((z - narrow) / (0.92 - narrow), 0.0, 1.0)
    away = share * share * (3.0 - 2.0 * share)
    widths = (
        waist + (half - waist) * near + (far - waist) * away + 0.04 * half * (np.exp(-mm / (0.10 * half)) - 1.0) * near
    )
    centre = bone.bow_mm * np.sin(np.pi * z)
    if bone.name in ("mc1", "mc2", "mc5"):
        centre = centre + {"mc1": -0.02, "mc2": -0.05, "mc5": 0.03}[bone.name] * bone.metaphysis_mm * away
    wall = np.clip(4.0 * z * (1.0 - z), 0.0, 1.0) ** (1.8 if kind == "mc" else 1.6)
    return widths.astype(np.float32), centre.astype(np.float32), wall.astype(np.float32)


def _far_end(bone: Bone, x: NDArray[np.float64], tilt: float) -> NDArray[np.float64]:
    """Return where the end away from the growth plate lies, mm from the metaphysis, across x = -1..1."""
    half = 0.5 * bone.far_mm
    kind = bone.name[:2]
    if kind in ("ra", "ul"):
        offset = np.zeros_like(x)
    elif kind == "dp":
        offset = -0.75 * half * (1.0 - np.sqrt(np.clip(1.0 - x * x, 0.0, 1.0)))
    elif kind == "mc" and bone.name != "mc1":
        rounding = 0.28 + 0.012 * max(0.0, 50.0 - bone.shaft_mm)  # the shorter the rounder: a child's
        offset = half * (-rounding * x * x - (0.10 + tilt) * x + 0.10 * np.cos(4.0 * x))
        offset += half * {"2": 0.22, "3": 0.12, "4": 0.0, "5": -0.3}[bone.name[2]] * x
    elif bone.name == "mc1":
        offset = -0.55 * half * x * x + tilt * half * x
    else:
        # Two condyles with a shallow groove between them.
        offset = half * (-0.42 * np.abs(x) ** 3.2 - 0.10 * np.exp(-((x / 0.35) ** 2)) + tilt * x)
    return np.asarray(bone.shaft_mm + offset)


def _round(a: Array, b: Array, radius: float) -> Array:
    """Return the distance inside a corner of two edges, rounded by `radius`."""
    r = np.float32(radius)
    near: Array = r - np.hypot(np.maximum(r - a, 0), np.maximum(r - b, 0))
    return np.minimum(near, np.minimum(a, b))


def draw_shaft(
    canvas: Canvas, bone: Bone, tissue: Tissue, tile: Array, rng: np.random.Generator, ripple: NDArray[np.float64]
) -> None:
    """Add the shaft with its metaphysis."""
    reach = 0.5 * max(bone.metaphysis_mm, bone.far_mm) + abs(bone.bow_mm) + 1.0
    window = canvas.window(
        bone.origin, bone.lateral, bone.into, (-reach, reach), (-0.15 * bone.metaphysis_mm, bone.shaft_mm + 2.0)
    )
    tilt, seed_u, seed_s = float(rng.normal(0.0, 0.05)), float(rng.uniform(0, 60)), float(rng.uniform(0, 60))
    if window is None:
        return
    # A slanting bone fills a fraction of its window: from here on only pixels near it are looked at.
    near_it = (np.abs(window.u) < reach) & (window.s > -0.15 * bone.metaphysis_mm) & (window.s < bone.shaft_mm + 2.0)
    pixels = np.flatnonzero(near_it)
    u, s = window.u.ravel()[pixels], window.s.ravel()[pixels]
    profile = _profile(bone)
    z = s / np.float32(bone.shaft_mm)
    w = lookup(profile[0], z)
    c = u - lookup(profile[1], z)
    x = np.linspace(-1.0, 1.0, _SAMPLES)
    xi = (c / w + np.float32(1.0)) * np.float32(0.5)
    side = w - np.abs(c)
    near = s - lookup(-plate(bone, x, ripple).astype(np.float32), xi)
    far = lookup(_far_end(bone, x, tilt).astype(np.float32), xi) - s
    immature = 1.0 if bone.shape is None else 1.0 - bone.shape.joint
    inside = np.minimum(
        _round(side, near, (0.04 + 0.10 * immature) * bone.metaphysis_mm), _round(side, far, 0.12 * bone.far_mm)
    )
    scale = np.float32(canvas.view.pixels_per_mm)
    solid = np.flatnonzero(inside > np.float32(-0.5 / scale))
    if solid.size == 0:
        return
    cover = np.clip(inside[solid] * scale + np.float32(0.5), 0, 1)
    grain = texture(tile, u[solid] + np.float32(seed_u), s[solid] + np.float32(seed_s), tissue.per_mm * 1.25, 4.0)
    density = _shaft_density(
        bone, tissue, w[solid], c[solid], lookup(profile[2], z[solid]), side[solid], near[solid], far[solid], grain
    )
    layer = np.zeros(window.u.shape, dtype=np.float32)
    layer.ravel()[pixels[solid]] = density * cover
    canvas.bone[window.rows, window.columns] += layer * np.float32(tissue.mineral)
    mask = np.zeros(window.u.shape, dtype=np.bool_)
    mask.ravel()[pixels[solid]] = cover > 0.5
    canvas.masks.add(bone.name, window.rows, window.columns, mask)


def _shaft_density(
    bone: Bone, tissue: Tissue, w: Array, c: Array, wall: Array, side: Array, near: Array, far: Array, grain: Array
) -> Array:
    """Return mm of compact bone along chords through an elliptic tube, its wall thick at the waist and thin at the ends.

    All arrays are (pixels,): half width, distance from the axis, share of the full wall, distances from the side and from
    the two ends, trabecular pattern.
    """
    thick = np.float32(tissue.cortex * 0.5 * bone.waist_mm) * wall
    thick += np.float32(0.22 + 0.012 * bone.metaphysis_mm)
    depth = w * np.float32(0.56 if bone.name == "radius" else 0.80)
    q = np.sqrt(np.clip(1.0 - (c / w) ** 2, 0, 1))
    inner = np.maximum(w - thick, np.float32(0.2))
    qi = np.sqrt(np.clip(1.0 - (c / inner) ** 2, 0, 1))
    # The walls to the front and back are thinner than those at the sides.
    hollow = 2 * np.maximum(depth - np.float32(0.6) * thick, 0) * qi
    compact = np.maximum(2 * depth * q - hollow, 0)
    round_off = np.clip(np.minimum(near, far) / np.float32(0.22 * bone.waist_mm), 0, 1)
    fade = np.sqrt(round_off * (2 - round_off)) * np.float32(0.75) + np.float32(0.25)
    spongy = np.float32(tissue.spongiosa) + np.float32(tissue.marrow - tissue.spongiosa) * wall
    density = compact * np.float32(0.85) + hollow * spongy * (1 + np.float32(tissue.grain) * grain)
    density *= fade
    # The zone of provisional calcification and the far subchondral plate are seen edge on.
    rim = np.float32(tissue.rim_mm)
    line = np.exp(-(((near - rim * np.float32(0.8)) / rim) ** 2))
    line += np.float32(0.5) * np.exp(-(((far - rim) / rim) ** 2))
    line += np.float32(0.35) * np.exp(-np.maximum(near, 0) / np.float32(0.16 * bone.metaphysis_mm))
    density += line * (np.float32(0.34 if bone.name in ("radius", "ulna") else 0.26) * depth * (q + np.float32(0.25)))
    shell = np.exp(-(((side - rim * np.float32(0.5)) / (rim * np.float32(0.7))) ** 2))
    total: Array = density + shell * (np.float32(0.12) * depth)
    return total


def _outline(bone: Bone, shape: Shape, ripple: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return u and the two borders of the epiphysis: towards the metaphysis and towards the joint, mm beyond s = 0."""
    half = 0.5 * bone.metaphysis_mm
    a = 0.5 * half * (shape.lateral + shape.medial)
    u0 = 0.5 * half * (shape.lateral - shape.medial)
    x = np.sin(np.linspace(-0.5 * np.pi, 0.5 * np.pi, _SAMPLES))
    u = u0 + a * x
    full = bone.height_mm
    kind = bone.name[:2]
    height = shape.height * full
    mature = shape.joint
    bottom = (0.5 - 0.36 * mature) * height
    lean = {"ra": 0.62, "ul": -0.12, "pp": -0.15 if bone.name == "pp1" else 0.0, "mc": 0.0}.get(kind, 0.0) * min(
        1.0, shape.height * 1.2
    )
    below = np.clip(1.0 - np.abs(x) ** (shape.corner + 3.0 * mature), 0, 1) ** (1.0 / (shape.corner + 3.0 * mature))
    slender = 0.3 if kind in ("mp", "dp") else 1.0
    head = kind == "mc" and bone.name != "mc1"
    top_corner = 2.0 + 0.8 * mature if head else 2.0 + slender * (shape.corner - 2.0)
    above = np.clip(1.0 - np.abs(x) ** top_corner, 0, 1) ** (1.0 / top_corner)
    follow = plate(bone, np.clip(u / half, -1, 1), ripple) * np.clip((shape.lateral - 0.3) / 0.5, 0, 1)
    base = follow + shape.gap_mm
    lower = base + bottom * (1.0 - below)
    upper = (
        shape.gap_mm
        + 0.25 * follow
        + 0.75 * float(follow.mean())
        + bottom
        + (height - bottom) * above * (1.0 + lean * x)
    )
    relief = {
        "pp": 0.26 * (x * x - 0.55),
        "mp": 0.26 * np.exp(-((x / 0.30) ** 2)) + 0.14 * (x * x - 0.5),
        "dp": 0.20 * np.exp(-((x / 0.42) ** 2)) - 0.04,
        "ra": 0.05 * np.exp(-(((x + 0.25) / 0.2) ** 2)) - 0.10 * np.sin(np.pi * np.clip(x + 0.2, 0, 1)),
        "ul": 0.62 * np.exp(-(((x + 0.66) / 0.24) ** 2)) - 0.16 * np.exp(-(((x - 0.05) / 0.35) ** 2)),
        "mc": 0.0 * x if bone.name != "mc1" else 0.16 * (x * x - 0.5),
    }[kind]
    upper = upper + relief * mature * full * np.clip(above * 1.6, 0, 1)
    tip = np.clip((np.abs(x) - 0.66) / 0.34, 0, 1) ** 1.6
    bend = full * tip * np.where(x > 0, shape.cap_lateral, shape.cap_medial)
    lower, upper = lower - bend * 1.15, upper - bend * 0.75
    return u, np.minimum(lower, upper), upper


def draw_epiphysis(
    canvas: Canvas, bone: Bone, tissue: Tissue, tile: Array, rng: np.random.Generator, ripple: NDArray[np.float64]
) -> None:
    """Add the ossified part of the epiphysis, and what has fused of its growth plate."""
    seed_u, seed_s = float(rng.uniform(0, 60)), float(rng.uniform(0, 60))
    shape = bone.shape
    if shape is None:
        return
    u, lower, upper = _outline(bone, shape, ripple)
    margin = 0.8
    window = canvas.window(
        bone.origin,
        bone.lateral,
        bone.into,
        (float(u[0]) - margin, float(u[-1]) + margin),
        (-float(upper.max()) - margin, -float(lower.min()) + margin + 0.12 * bone.metaphysis_mm),
    )
    if window is None:
        return
    t = -window.s
    scale = np.float32(canvas.view.pixels_per_mm)
    grid = np.linspace(u[0], u[-1], _SAMPLES)
    bottom, top = np.interp(grid, u, lower), np.interp(grid, u, upper)
    spacing = float(grid[1] - grid[0])
    position = (window.u - np.float32(u[0])) / np.float32(u[-1] - u[0])
    down = (t - lookup(bottom.astype(np.float32), position)) * lookup(_cosine(bottom, spacing), position)
    up = (lookup(top.astype(np.float32), position) - t) * lookup(_cosine(top, spacing), position)
    outside = np.maximum(np.float32(u[0]) - window.u, window.u - np.float32(u[-1]))
    inside = np.minimum(np.minimum(down, up), -outside)
    cover = np.clip(inside * scale + np.float32(0.5), 0, 1)
    tall = max(float((upper - lower).max()), 0.3)
    half = 0.5 * float(u[-1] - u[0])
    ball = min(0.5 * tall, 0.3 * bone.height_mm + 0.2)
    m = np.clip(inside / np.float32(ball), 0, 1)
    xi = (window.u - np.float32(0.5 * (u[0] + u[-1]))) / np.float32(half)
    q = np.sqrt(np.clip(1.0 - (np.float32(0.96) * xi) ** 2, 0, 1))
    depth = np.float32(2 * min(0.80 * half, 0.8 * tall + 0.45 * half)) * (np.float32(0.45) + np.float32(0.55) * q)
    depth = depth * np.sqrt(m * (2 - m))
    grain = texture(tile, window.u + np.float32(seed_u), window.s + np.float32(seed_s), tissue.per_mm * 1.15, 1.0)
    density = depth * np.float32(tissue.spongiosa) * (1 + np.float32(tissue.grain) * grain)
    rim = np.float32(tissue.rim_mm * 0.9)
    edge = np.float32(0.35 + 0.65 * min(1.0, shape.lateral))
    chord = np.float32(1.1 * half) * (q + np.float32(0.12)) * edge
    line = np.exp(-(((down - rim * np.float32(0.8)) / rim) ** 2)) + np.float32(0.9) * np.exp(
        -(((up - rim * np.float32(0.8)) / rim) ** 2)
    )
    density += line * chord * np.float32(0.26)
    if shape.edges > 0:
        # The palmar border, seen through the bone beside the dorsal one.
        depth_in = np.float32({"ra": 0.34, "mc": 0.20, "ul": 0.3}.get(bone.name[:2], 0.42) * tall)
        second = np.exp(-(((up - depth_in * (1 - xi * xi)) / (rim * np.float32(1.1))) ** 2)) * (1 - xi**4).clip(0)
        density += second * chord * np.float32(0.24 * shape.edges)
    density *= cover
    if shape.fused > 0:
        density += _bridge(window, bone, shape, tissue, ripple, cover, grain)
    canvas.bone[window.rows, window.columns] += density * np.float32(tissue.mineral)
    canvas.masks.add(bone.name, window.rows, window.columns, cover > 0.5)
    canvas.epiphyses.add(bone.name, window.rows, window.columns, cover > 0.5)


def _bridge(
    window: Window, bone: Bone, shape: Shape, tissue: Tissue, ripple: NDArray[np.float64], cover: Array, grain: Array
) -> Array:
    """Return the bone that replaces the growth plate, growing from the centre to the edges, with its residual line."""
    half = 0.5 * bone.metaphysis_mm
    x = np.linspace(-1.0, 1.0, _SAMPLES)
    seam = plate(bone, x, ripple).astype(np.float32)
    xi = window.u / np.float32(half)
    t = -window.s - lookup(seam, (xi + 1) * np.float32(0.5))
    gap = np.float32(shape.gap_mm)
    across = np.clip((np.float32(shape.fused * 1.12) - np.abs(xi)) / np.float32(0.12), 0, 1)
    across *= np.clip((1.0 - np.abs(xi)) * 12, 0, 1)
    within = np.clip(np.minimum(t + np.float32(0.2), gap + np.float32(0.2) - t) / np.float32(0.15), 0, 1)
    q = np.sqrt(np.clip(1.0 - xi * xi, 0, 1))
    thick = np.float32(1.5 * half) * q
    filled = thick * np.float32(tissue.spongiosa * 1.2) * (1 + np.float32(tissue.grain) * grain) * within * (1 - cover)
    rim = np.float32(tissue.rim_mm * 0.9)
    line = np.exp(-(((t - np.float32(0.5) * gap) / rim) ** 2)) * thick * np.float32(0.28 * shape.line)
    return np.asarray(across * (filled + line), dtype=np.float32)


def _cosine(border: NDArray[np.float64], spacing: float) -> _Table:
    """Return the factor that turns a vertical distance from a sloping border into a distance from it."""
    slope = np.gradient(border, spacing)
    return np.asarray(1.0 / np.sqrt(1.0 + slope * slope), dtype=np.float32)
