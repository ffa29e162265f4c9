"""Vary batches of crops as films, detectors and exposures do, so that what is learnt on phantoms holds on films.

Torch tensors in and out; every function takes the generator that makes it repeatable.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return (n, 1, 1, 1) numbers between two limits."""
    return (low + (high - low) * torch.rand(n, generator=generator))[:, None, None, None]


def some(n: int, chance: float, generator: torch.Generator) -> Tensor:
    """Return (n, 1, 1, 1) ones with a chance, else zeros."""
    return (torch.rand(n, generator=generator) < chance).float()[:, None, None, None]


def warp(
    x: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    window: float,
    degrees: float = 12.0,
    scale: float = 0.12,
    shift: float = 0.05,
    bend: float = 0.0,
) -> Tensor:
    """Cut a turned, scaled, shifted window of `size` out of every crop.

    Parameters
    ----------
    x
        (n, channels, side, side).
    window
        Side of the window over the side of the crop when nothing is varied.
    degrees, scale, shift
        Standard deviation of the turn; of the logarithm of the size; of the shift, in windows.
    bend
        Largest displacement of a smooth deformation, in windows: no two bones curve alike.
    """
    n = x.shape[0]

    def normal(sigma: float) -> Tensor:
        return (torch.randn(n, generator=generator) * sigma).clamp(-2.5 * sigma, 2.5 * sigma)

    angle, size_of = normal(math.radians(degrees)), normal(scale).exp() * window
    squeeze = normal(0.04).exp()
    cosine, sine = torch.cos(angle) * size_of, torch.sin(angle) * size_of
    rows = (
        torch.stack((cosine * squeeze, -sine, 2 * window * normal(shift)), 1),
        torch.stack((sine, cosine / squeeze, 2 * window * normal(shift)), 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), [n, 1, size, size], align_corners=False)
    if bend > 0:
        field = torch.randn(n, 2, 5, 5, generator=generator) * bend * window
        field = functional.interpolate(field, size=(size, size), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def expose(x: Tensor, generator: torch.Generator, *, dark: float = 0.08) -> Tensor:
    """Vary the look of (n, 1, rows, columns) films in 0..1: tone curve, shading, veil, sharpness, grain, polarity.

    `dark` is the share of films turned into bone dark.
    """
    n, side = x.shape[0], x.shape[-1]
    gamma = (0.35 * torch.randn(n, generator=generator)).clamp(-0.8, 0.8).exp()[:, None, None, None]
    x = x.clamp(1e-3, 1).pow(gamma)
    line = torch.linspace(-0.5, 0.5, side)
    shade = uniform(n, -0.3, 0.3, generator) * line[:, None] + uniform(n, -0.3, 0.3, generator) * line
    x = x + shade
    # A smooth change of density: soft tissue is not the phantom's.
    coarse = torch.randn(n, 1, 4, 4, generator=generator) * uniform(n, 0.0, 0.12, generator)
    x = x + functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)
    smooth = functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    fine = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, fine, uniform(n, -0.9, 1.0, generator))
    x = torch.lerp(x, smooth, some(n, 0.25, generator) * uniform(n, 0.3, 1.0, generator))
    grain = torch.randn(x.shape, generator=generator)
    soft_grain = functional.avg_pool2d(grain, 3, stride=1, padding=1) * 2.0
    grain = torch.lerp(grain, soft_grain, uniform(n, 0.0, 1.0, generator))
    x = x + grain * uniform(n, 0.0, 0.05, generator)
    turned = some(n, dark, generator)
    return turned * (1 - x) + (1 - turned) * x


def hide(x: Tensor, generator: torch.Generator, *, chance: float = 0.3) -> Tensor:
    """Lay a bright, dark or flat rectangle over some films: markers, casts, jewellery, collimator blades."""
    n, side = x.shape[0], x.shape[-1]
    place = torch.arange(side) / side
    centre, half = torch.rand(n, 2, generator=generator), 0.02 + 0.10 * torch.rand(n, 2, generator=generator)
    level = torch.rand(n, generator=generator)[:, None, None, None] * 1.6 - 0.3
    across = ((place - centre[:, :1]).abs() < half[:, :1]).float()
    down = ((place - centre[:, 1:]).abs() < half[:, 1:]).float()
    mask = (down[:, :, None] * across[:, None, :])[:, None] * some(n, chance, generator)
    opaque = mask * uniform(n, 0.3, 1.0, generator)
    return x * (1 - opaque) + level * opaque


def collimate(
    x: Tensor, generator: torch.Generator, *, chance: float = 0.25, deepest: float = 0.45
) -> tuple[Tensor, Tensor]:
    """Lay an unexposed, mostly white border over one or two sides of some films, as a collimator or a scanned frame does.

    Parameters
    ----------
    deepest
        How far the border may reach into the crop, in crop sides.

    Returns
    -------
        The films and (n, 1, rows, columns) ones where the film was left as it is.
    """
    n, side = x.shape[0], x.shape[-1]
    line = (torch.arange(side) + 0.5) / side - 0.5
    open_field = torch.ones(n, 1, side, side)
    turn = 0.15 * torch.randn(n, generator=generator)
    for _ in range(2):
        angle = turn + math.pi / 2 * torch.randint(0, 4, (n,), generator=generator)
        along = torch.cos(angle)[:, None, None] * line + torch.sin(angle)[:, None, None] * line[:, None]
        edge = 0.5 - deepest * torch.rand(n, generator=generator)
        covered = (along > edge[:, None, None]).float()[:, None] * some(n, chance, generator)
        open_field = open_field * (1 - covered)
    level = torch.where(some(n, 0.7, generator) > 0, uniform(n, 0.85, 1.2, generator), uniform(n, 0.0, 0.3, generator))
    return x * open_field + level * (1 - open_field), open_field
