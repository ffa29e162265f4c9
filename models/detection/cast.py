"""See a cast or splint: a small network looks at the upright hand and says which parts of the view lie under one.

A cast is told by what a single region does not show: walls beside the skin, an edge across the palm, a wrist brighter than
the fingers. So this looks at the whole hand, upright, at half the resolution of the look that finds the points.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import transforms
from models.regions import CARPUS, RADIUS, REGIONS, ULNA

SIDE: Final = 96  # pixels of the view
CELLS: Final = 12  # cells of the map on each side
COVERS: Final = 0.5  # probability from which on a cell lies under a cast
FEWEST: Final = 2  # regions under it
# One of them is at the wrist, as under casts and splints of the hand: without this, 1 of 193 real films (bright fingers on a white
# plate) was taken for a cast, with it none. A splint of one finger is for `splint`.
WRIST: Final = frozenset((RADIUS, ULNA, CARPUS))
Array = NDArray[np.float64]


def _step(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class CastNet(nn.Module):
    """From upright views to the logits, cell by cell, that a cast lies there."""

    def __init__(self, width: int = 16) -> None:
        """Build it; `width` scales every stage."""
        super().__init__()
        self.body = nn.Sequential(
            _step(2, width, 2), _step(width, 2 * width, 2), _step(2 * width, 2 * width),
            _step(2 * width, 3 * width, 2), _step(3 * width, 3 * width, dilation=2),
            _step(3 * width, 3 * width, dilation=3), nn.Conv2d(3 * width, 1, 1),
        )  # fmt: skip

    def forward(self, views: Tensor) -> Tensor:
        """Map (n, 2, SIDE, SIDE) views, grey levels and where the film is, to (n, CELLS, CELLS) logits."""
        cells: Tensor = self.body(views)
        return cells.squeeze(1)


def halved(view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average a view of twice the size to (2, SIDE, SIDE), grey levels less those outside of the film."""
    small: NDArray[np.float32] = view.reshape(2, SIDE, 2, SIDE, 2).mean(axis=(2, 4), dtype=np.float32)
    return small


def under(net: CastNet, view: NDArray[np.float32], places: Array) -> frozenset[str]:
    """Name the regions that lie under a cast; none where fewer than `FEWEST` do, or none at the wrist.

    Parameters
    ----------
    view
        (2, SIDE, SIDE), the upright hand, bone bright.
    places
        (22, 2) middles of the regions in fractions of that view.
    """
    with torch.inference_mode():
        cells = torch.sigmoid(net(torch.from_numpy(view)[None]))[0].numpy()
    found = transforms.samples(cells, np.stack([_at(x, y) for x, y in places]), 1)[:, 0, 0, 0]
    covered = frozenset(name for name, share in zip(REGIONS, found, strict=True) if share > COVERS)
    return covered if len(covered) >= FEWEST and covered & WRIST else frozenset()


def _at(x: float, y: float) -> transforms.Matrix:
    """Map the one pixel of a view to a place on the map of cells."""
    return np.array([[1.0, 0.0, x * CELLS - 0.5], [0.0, 1.0, y * CELLS - 0.5]])
