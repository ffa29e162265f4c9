"""Train the closer look (`closer`) on phantoms and put it beside a detector's network.

It learns from phantoms alone, so the terms of the weights are the base's.
"""

import argparse
import math
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models import phantom, transforms
from models.augment import expose, hide, uniform
from models.detection.closer import CONTEXT, SIDE, Closer, normalised
from models.detection.completing import Completing
from models.detection.learning import Sources
from models.detection.phantoms import region_boxes
from models.detection.predict import CLOSER
from models.regions import REGIONS

KEPT: Final = 96  # pixels of a view in the cache
WIDE: Final = 2.8  # its side over that of the box
FIRST_SEED: Final = 30_000_000


def views_of(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the wide, upright views (22, KEPT, KEPT) of one phantom and the boxes' (22, 2) sizes over the mean side."""
    rng = np.random.default_rng((seed, 23))
    rows = int(rng.integers(360, 640))
    drawn = phantom.draw(
        seed, rows=rows, columns=int(rows * rng.uniform(0.72, 0.9)), low_contrast=bool(rng.random() < 0.1)
    )
    pixels = transforms.stretch(drawn.image.pixels)
    turn = -np.deg2rad(drawn.rotation_degrees)
    upright = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    upright = upright @ np.diag([-1.0 if drawn.laterality == "R" else 1.0, 1.0])
    views, sizes = [], []
    for box in (region_boxes(drawn)[name] for name in REGIONS):
        size = np.array([box[2] - box[0], box[3] - box[1]])
        linear = upright * (WIDE * size.mean() / KEPT)
        middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        matrix = np.hstack([linear, (middle - linear @ np.full(2, (KEPT - 1) / 2))[:, None]])
        views.append(transforms.sample(pixels, matrix, KEPT)[0])
        sizes.append(size / size.mean())
    return np.round(255 * np.stack(views)).astype(np.uint8), np.array(sizes, np.float32)


def cached(films: int, cache: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the views of all films, drawn once where there is a folder to keep them in."""
    path = cache / f"closer-{FIRST_SEED}-{films}.npz" if cache else None
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return kept["views"], kept["sizes"]
    drawn = [views_of(FIRST_SEED + k) for k in range(films)]
    views, sizes = np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, views=views, sizes=sizes)
    return views, sizes


def batch_of(
    views: NDArray[np.uint8], sizes: NDArray[np.float32], chosen: NDArray[np.int64], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return close views as an inexact first look gives them, their regions, and what the network should say."""
    n = len(chosen)
    regions = torch.from_numpy(chosen % len(REGIONS))
    wide = torch.from_numpy(views.reshape(-1, KEPT, KEPT)[chosen]).float()[:, None] / 255
    size = torch.from_numpy(sizes.reshape(-1, 2)[chosen])

    def normal(sigma: float) -> Tensor:
        return (sigma * torch.randn(n, generator=generator)).clamp(-3 * sigma, 3 * sigma)

    turn, grow = normal(math.radians(5)), normal(0.09).exp()
    spread = torch.where(torch.rand(n, generator=generator) < 0.5, 0.03, 0.09)
    shift = spread[:, None] * torch.randn(n, 2, generator=generator)  # of the view's middle, in sides of the view
    zoom = grow * CONTEXT / WIDE
    turned = torch.stack(
        (torch.stack((turn.cos(), -turn.sin()), 1), torch.stack((turn.sin(), turn.cos()), 1)), 1
    )  # (n, 2, 2) from the view to the cache
    moved = torch.einsum("nij,nj->ni", turned, shift) * 2 * zoom[:, None]
    theta = torch.cat((turned * zoom[:, None, None], moved[:, :, None]), dim=2)
    grid = functional.affine_grid(theta, [n, 1, SIDE, SIDE], align_corners=False)
    seen = functional.grid_sample(wide, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    coarse = functional.interpolate(
        functional.avg_pool2d(seen, 2), scale_factor=2.0, mode="bilinear", align_corners=False
    )
    seen = torch.lerp(seen, coarse, uniform(n, -1.0, 1.0, generator).clamp_min(0))
    seen = hide(expose(seen, generator, dark=0.0), generator, chance=0.15)
    wanted = torch.cat((-shift, size.log() - grow.log()[:, None]), dim=1)
    return normalised(seen), regions, wanted


def error(found: Tensor, wanted: Tensor) -> Tensor:
    """Smooth absolute error; a shift of 1 % of the view counts as much as a size that is wrong by 1.7 %."""
    scale = torch.tensor([1.0, 1.0, 1 / CONTEXT, 1 / CONTEXT])
    return functional.smooth_l1_loss(found * scale, wanted * scale, beta=0.01)


@torch.inference_mode()
def measured(net: nn.Module, check: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Return the median error of the middle and of the side, in sides of the box."""
    away = (net(check[0].to(memory_format=torch.channels_last), check[1]) - check[2]).numpy()
    return {
        "middle_percent": float(100 * CONTEXT * np.median(np.hypot(away[:, 0], away[:, 1]))),
        "side_percent": float(100 * np.median(np.abs(away[:, 2:]))),
    }


class CloserLearning(Completing):
    """Learn to move and size a region's box from a view of the region alone."""

    architecture, look, prefix, width = "closer", "closer look", CLOSER, 16

    def __init__(self, options: argparse.Namespace, sources: Sources, device: torch.device) -> None:
        """Draw the views and build the network."""
        self.complete(options, device)
        self.views, self.sizes = cached(options.phantoms, options.phantom_cache)
        # The last films choose nothing: they only say how it goes.
        self.training = (len(self.views) - max(1, len(self.views) // 20)) * len(REGIONS)
        checking = np.arange(self.training, len(self.views) * len(REGIONS))
        self.check = batch_of(self.views, self.sizes, checking, torch.Generator().manual_seed(0))
        self.net: Closer = Closer(self.width).to(device).to(memory_format=torch.channels_last)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Draw views and return their loss."""
        chosen = self.rng.integers(self.training, size=self.options.batch)
        seen, regions, wanted = (v.to(self.device) for v in batch_of(self.views, self.sizes, chosen, self.generator))
        value = error(self.net(seen.to(memory_format=torch.channels_last), regions), wanted)
        return value, {}

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Measure on the films that choose nothing."""
        net.eval()
        return measured(net, self.check)

    @staticmethod
    def error(metrics: dict[str, float]) -> float:
        """Return how far the middles are off."""
        return metrics["middle_percent"]

    def learned_from(self) -> str:
        """Say from how many films."""
        return f"{len(self.views)} phantoms"
