"""Look at each region once more, closely: a small network moves and sizes the box that the look at the whole hand gave.

The look at the whole hand sees a fifth of the region's pixels; this one sees the region alone, upright, and its bone by name.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import transforms
from models.regions import REGIONS

SIDE: Final = 48  # pixels of a close view
CONTEXT: Final = 1.7  # side of the view over the side of the box
FARTHEST: Final = 0.35  # a box is moved by at most this share of its view's side; who says more has seen something else
Array = NDArray[np.float64]


def _step(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Closer(nn.Module):
    """From close views and the number of their regions to shift and size of the box."""

    def __init__(self, width: int = 16) -> None:
        """Build it; `width` scales every stage."""
        super().__init__()
        self.trunk = nn.Sequential(
            _step(1, width, 2), _step(width, 2 * width, 2), _step(2 * width, 2 * width, 1),
            _step(2 * width, 3 * width, 2), _step(3 * width, 3 * width, 1), _step(3 * width, 4 * width, 2),
        )  # fmt: skip
        self.name = nn.Embedding(len(REGIONS), 4 * width)
        self.join = nn.Linear(4 * width * (SIDE // 16) ** 2, 8 * width)
        self.told = nn.Linear(4 * width, 8 * width)
        self.head = nn.Linear(8 * width, 4 * len(REGIONS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, views: Tensor, regions: Tensor) -> Tensor:
        """Map (n, 1, SIDE, SIDE) normalised views and (n,) region numbers to (n, 4).

        Shift x, y of the box's middle from the view's, in sides of the view; logarithm of width and height over
        side / CONTEXT.
        """
        seen = self.trunk(views).flatten(1)
        joined = torch.relu(self.join(seen) + self.told(self.name(regions)))
        every = self.head(joined).view(len(views), len(REGIONS), 4)
        chosen: Tensor = every[torch.arange(len(views), device=views.device), regions]
        return chosen


def normalised(views: Tensor) -> Tensor:
    """Subtract each view's mean and divide by its standard deviation."""
    mean = views.mean(dim=(2, 3), keepdim=True)
    return (views - mean) / views.std(dim=(2, 3), keepdim=True).clamp_min(0.02)


def look(net: Closer, pixels: NDArray[np.float32], upright: Array, middles: Array, sizes: Array) -> tuple[Array, Array]:
    """Return middles and sizes of the boxes after one closer look.

    Parameters
    ----------
    pixels
        The film, bone bright, stretched.
    upright
        (2, 2) turn (and mirror) from the plane of an upright left hand to the film, of determinant 1 or -1.
    middles
        (22, 2) x y on the film.
    sizes
        (22, 2) width and height in the upright plane, in pixels of the film.
    """
    sides = CONTEXT * sizes.mean(axis=1)
    linear = upright * (sides / SIDE)[:, None, None]
    corners = middles - linear @ np.full(2, (SIDE - 1) / 2)
    views = transforms.samples(pixels, np.concatenate((linear, corners[:, :, None]), axis=2), SIDE)[:, :1]
    with torch.inference_mode():
        batch = normalised(torch.from_numpy(np.ascontiguousarray(views))).to(memory_format=torch.channels_last)
        found = net(batch, torch.arange(len(REGIONS))).double().numpy()
    shift = np.clip(found[:, :2], -FARTHEST, FARTHEST) * sides[:, None]
    grown = np.exp(np.clip(found[:, 2:], -0.7, 0.7)) * sides[:, None] / CONTEXT
    return middles + shift @ upright.T, grown
