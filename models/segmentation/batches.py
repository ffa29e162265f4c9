"""From a cache of crops to what a network sees in training and in a look at the validation films."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.augment import collimate, expose, hide, warp
from models.engine import mixed_precision
from models.segmentation.data import MARGIN, SIZE, Crops
from models.segmentation.network import CLASSES, layout


def batch_of(crops: Crops, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Return films (n, 1, kept, kept) in 0..1 and (n, 3, kept, kept): ulna, radius and what lies on the film, 0..1."""
    films = torch.from_numpy(np.stack([crops.films[i] for i in indices])).float()[:, None] / 255
    masks = torch.from_numpy(np.stack([crops.masks[i] for i in indices])).float() / 255
    inside = torch.from_numpy(np.stack([crops.inside[i] for i in indices])).float()[:, None]
    return films, torch.cat((masks, inside), dim=1)


def mixed(
    phantoms: Crops, films: int, real: Crops | None, *, batch: int, share: float, draws: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a batch from the first `films` phantoms, about `share` of it from real crops where there are some."""
    found, truth = batch_of(phantoms, draws.integers(films, size=batch).tolist())
    count = int(draws.binomial(batch, share)) if real is not None else 0
    if real is None or not count:
        return found, truth
    drawn = batch_of(real, draws.integers(len(real.films), size=count).tolist())
    return torch.cat((drawn[0], found[count:])), torch.cat((drawn[1], truth[count:]))


def scaled(films: Tensor, inside: Tensor) -> Tensor:
    """Do to a batch what `crop.normalise` does to one crop."""
    count = inside.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)
    mean = (films * inside).sum(dim=(1, 2, 3), keepdim=True) / count
    spread = (((films - mean) ** 2 * inside).sum(dim=(1, 2, 3), keepdim=True) / count).sqrt().clamp_min(1e-4)
    return (films - mean) / spread * inside


def prepare(films: Tensor, truth: Tensor, generator: torch.Generator | None, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Return the network's input and the share of each class in each pixel; varied when a generator is given."""
    if generator is None:
        start = round((films.shape[-1] - films.shape[-1] / MARGIN) / 2)
        both = torch.cat((films, truth), dim=1)[..., start:-start, start:-start]
        both = functional.interpolate(both, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    else:
        both = torch.cat((films, truth), dim=1)
        wide = round(size * MARGIN)
        if wide < 0.8 * films.shape[-1]:  # the warp takes single pixels: what is finer than its grid goes first
            both = functional.interpolate(both, size=(wide, wide), mode="bilinear", align_corners=False, antialias=True)
        both = warp(
            both,
            size,
            generator,
            window=1 / MARGIN,
            degrees=7,
            scale=0.10,
            shift=0.05,
            bend=0.012,
        )
    films, bones, inside = both[:, :1], both[:, 1:3], (both[:, 3:] > 0.5).float()
    if generator is not None:
        films, seen = collimate(hide(expose(films, generator), generator, chance=0.2), generator)
        bones = bones * seen
    shares = torch.cat((1 - bones.sum(dim=1, keepdim=True).clamp(max=1), bones), dim=1)
    return scaled(films, inside), shares / shares.sum(dim=1, keepdim=True)


@torch.inference_mode()
def measure(
    net: nn.Module, crops: Crops, device: torch.device, *, size: int = SIZE, batch: int = 16, mixing: bool = True
) -> dict[str, float]:
    """Return the mean IoU of each bone over the crops in which it shows, at the network's resolution."""
    rows: dict[str, list[float]] = {name: [] for name in CLASSES[1:]}
    for start in range(0, len(crops.films), batch):
        x, shares = prepare(*batch_of(crops, list(range(start, min(start + batch, len(crops.films))))), None, size)
        with mixed_precision(device, enabled=mixing):
            found = net(x.to(device, memory_format=layout(net))).argmax(dim=1).cpu()
        for index, name in enumerate(CLASSES[1:], start=1):
            predicted, wanted = found == index, shares[:, index] > 0.5
            shared = (predicted & wanted).sum(dim=(1, 2)).float()
            either = (predicted | wanted).sum(dim=(1, 2)).float()
            rows[name] += [float(v) for v in (shared / either.clamp_min(1))[wanted.any(dim=2).any(dim=1)]]
    return {f"iou_{name}": float(np.mean(values)) for name, values in rows.items()}


def fill_prior(net: nn.Module, crops: Crops, films: int, size: int) -> None:
    """Give a classical method the mean outline of the crops, all it learns."""
    total = torch.zeros(len(CLASSES), size, size)
    for index in range(films):
        total += prepare(*batch_of(crops, [index]), None, size)[1][0]
    net.prior.copy_(total / films)  # type: ignore[operator]  # a buffer of models.segmentation.classical
