"""Vary crops as films, detectors and exposures do, so that what is learnt on phantoms holds on films."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.grading.crops import shrunk
from models.grading.phantoms import MARGIN, kept_size, seen_size


def centre(kept: Tensor, seen: int | None = None) -> Tensor:
    """Cut what the network sees out of the wider crops: (n, 13, kept, kept) uint8 to (n, 13, size, size) in 0..1.

    `seen` is the size where it is smaller than that of the cache.
    """
    size = seen_size(kept.shape[-1])
    start = (kept.shape[-1] - size) // 2
    return shrunk(kept[..., start : start + size, start : start + size].float() / 255, seen)


def averaged(kept: Tensor, size: int) -> Tensor:
    """Average kept crops, (films, 13, kept, kept) uint8, down for crops of `size` pixels where they are much finer."""
    if kept.shape[-1] < 1.3 * kept_size(size):
        return kept
    small = torch.empty((*kept.shape[:2], kept_size(size), kept_size(size)), dtype=torch.uint8)
    for film, crops in enumerate(kept):
        small[film] = functional.interpolate(crops[None].float(), size=small.shape[2:], mode="area")[0].round()
    return small


def vary(
    kept: Tensor, generator: torch.Generator, *, strength: float = 1.0, bend: float = 1.0, size: int | None = None
) -> Tensor:
    """Turn, shift, scale and squeeze each crop as an inexact box would; blur, grain, shade and hide parts of it.

    Parameters
    ----------
    kept
        (films, 13, kept, kept) uint8.
    strength
        Factor of every change; 1 is for training.
    bend
        Factor of what changes a bone's proportions, squeeze and warp: 0 keeps the evidence of a stage that is a ratio of widths.
    size
        Pixels of the crops returned; None for the size of the cache. A cache that is much finer is to be averaged down before.

    Returns
    -------
    Tensor
        (films, 13, size, size) float32.
    """
    films, bones = kept.shape[:2]
    n = films * bones
    pixels = size or seen_size(kept.shape[-1])
    x = kept.reshape(n, 1, *kept.shape[2:]).float() / 255

    def normal(sigma: float) -> Tensor:
        # A detector errs for a whole film as well as for one bone.
        shared = torch.randn(films, 1, generator=generator).expand(films, bones).reshape(n)
        own = torch.randn(n, generator=generator)
        return (0.5 * shared + 0.85 * own) * sigma * strength

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    angle, zoom, squeeze = normal(math.radians(6)), normal(0.12).clamp(-0.3, 0.3).exp(), normal(0.05 * bend).exp()
    cosine, sine = torch.cos(angle) * zoom / MARGIN, torch.sin(angle) * zoom / MARGIN
    rows = (
        torch.stack((cosine * squeeze, -sine, normal(0.08) / MARGIN), 1),
        torch.stack((sine, cosine / squeeze, normal(0.08) / MARGIN), 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), [n, 1, pixels, pixels], align_corners=False)
    # Bones, gaps and joints of a child are never spaced quite like another's: a smooth warp of up to a few pixels.
    if bend:
        reach = (0.05 * bend * strength * uniform(0, 1))[:, None, None, None] / MARGIN
        warp = torch.randn(n, 2, 5, 5, generator=generator) * reach
        warp = functional.interpolate(warp, size=(pixels, pixels), mode="bicubic", align_corners=True)
        grid = grid + warp.permute(0, 2, 3, 1)
    x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    # Sharpness: a share of films is blurred, by averages of 3 or 5 pixels mixed in by a random part; another is sharpened.
    part = uniform(-0.6, 1.0).clamp_min(-0.5)[:, None, None, None] * strength
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, blurred, part)
    coarse = torch.rand(films, generator=generator) < 0.25 * strength
    if bool(coarse.any()):
        chosen = coarse[:, None].expand(films, bones).reshape(n)
        low = functional.interpolate(x[chosen], scale_factor=0.5, mode="area")
        x[chosen] = functional.interpolate(low, size=(pixels, pixels), mode="bilinear", align_corners=False)

    # Exposure: any monotone curve is undone by the equalisation; shading across the crop and grain are not.
    ramp = torch.linspace(-1, 1, pixels)
    tilt = (
        normal(0.06)[:, None, None, None] * ramp[None, None, None, :]
        + normal(0.06)[:, None, None, None] * ramp[:, None]
    )
    grain = torch.randn(x.shape, generator=generator) * (uniform(0, 0.035) * strength)[:, None, None, None]
    x = x + tilt + grain

    # Something lies over a corner now and then: a marker, the edge of a collimator, a neighbouring finger.
    hidden = torch.rand(n, generator=generator) < 0.06 * strength
    for index in torch.nonzero(hidden)[:, 0].tolist():
        depth = int(torch.randint(4, pixels // 4, (1,), generator=generator))
        level = float(torch.rand(1, generator=generator))
        side = int(torch.randint(4, (1,), generator=generator))
        strip = (slice(None), slice(0, depth)) if side % 2 else (slice(0, depth), slice(None))
        view = x[index, 0] if side < 2 else x[index, 0].flip(0, 1)
        view[strip] = level
        x[index, 0] = view if side < 2 else view.flip(0, 1)
    return x.reshape(films, bones, pixels, pixels)
