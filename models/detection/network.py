"""Find the points of a hand in one view: a narrow encoder with a decoder to a quarter of the view's resolution.

For each channel the network gives a map of logits over the cells of the view and one logit for "not in this view"; a
softmax over both says where the point is, or that it is absent. Sizes of boxes are read at the point.
"""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from models.detection.conventions import CHANNELS, JOINTS, LOOSE
from models.regions import REGIONS

STRIDE: Final = 4
SIZE_UNIT: Final = 16.0  # pixels of the view; box sizes are predicted as log(size / unit)
FIRST: Final = len(REGIONS) + len(JOINTS) + len(LOOSE)  # channels of weights that do not say how many they have
WINDOW: Final = 2  # cells on each side of the peak over which its place is averaged


class Output(NamedTuple):
    """What the network says of a batch of n views of s x s pixels; g = s / 4, c channels: the first c of `CHANNELS`."""

    places: Tensor  # (n, c, g, g) logits
    absent: Tensor  # (n, c) logit of "not in this view", on the scale of `places`
    sizes: Tensor  # (n, 44, g, g) log width and log height of the 22 boxes
    facts: Tensor  # (n, 3) logits: a hand; bone is bright; more than one hand


class _Block(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _down(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
    )


class HandNet(nn.Module):
    """The network; `width` scales every stage."""

    def __init__(self, width: int = 32, channels: int = len(CHANNELS)) -> None:
        super().__init__()
        w4, w8, w16, w32, wide = width, 2 * width, 4 * width, 5 * width, 2 * width
        self.stem = nn.Sequential(_down(2, width // 2), _down(width // 2, w4))
        self.stage4 = _Block(w4)
        self.stage8 = nn.Sequential(_down(w4, w8), _Block(w8))
        self.stage16 = nn.Sequential(_down(w8, w16), _Block(w16))
        self.stage32 = nn.Sequential(_down(w16, w32), _Block(w32), _Block(w32))
        self.lateral32 = nn.Conv2d(w32, w16, 1)
        self.merge16 = _Block(w16)
        self.lateral16 = nn.Conv2d(w16, wide, 1)
        self.lateral8 = nn.Conv2d(w8, wide, 1)
        self.merge8 = _Block(wide)
        self.lateral4 = nn.Conv2d(w4, wide, 1)
        self.merge4 = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)
        )
        self.places = nn.Conv2d(wide, channels, 1)
        self.sizes = nn.Conv2d(wide, 2 * len(REGIONS), 1)
        self.absent = nn.Linear(w32, channels)
        self.facts = nn.Linear(w32, 3)
        self.channels = channels

    def forward(self, views: Tensor) -> Output:
        """Take (n, 2, s, s) views, s a multiple of 32."""
        s4 = self.stage4(self.stem(views))
        s8 = self.stage8(s4)
        s16 = self.stage16(s8)
        s32 = self.stage32(s16)
        up16 = self.merge16(s16 + _twice(self.lateral32(s32)))
        up8 = self.merge8(self.lateral8(s8) + _twice(self.lateral16(up16)))
        up4 = self.merge4(self.lateral4(s4) + _twice(up8))
        pooled = s32.mean(dim=(2, 3))
        return Output(self.places(up4), self.absent(pooled), self.sizes(up4), self.facts(pooled))


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Found(NamedTuple):
    """Points of a batch of views."""

    points: Tensor  # (n, c, 2) x y in pixels of the view
    presence: Tensor  # (n, c) probability that the point lies in the view
    focus: Tensor  # (n, c) share of the map's mass within the window about its peak
    sizes: Tensor  # (n, 22, 2) width and height of the boxes in pixels of the view


def decode(output: Output) -> Found:
    """Turn maps into points: the mean over a window about the peak, in pixels of the view."""
    n, channels, rows, columns = output.places.shape
    logits = torch.cat([output.places.flatten(2), output.absent[:, :, None]], dim=2).float()
    share = torch.softmax(logits, dim=2)
    presence = 1 - share[:, :, -1]
    maps = share[:, :, :-1]
    peak = maps.argmax(dim=2)
    py, px = peak // columns, peak % columns
    offsets = torch.arange(-WINDOW, WINDOW + 1, device=maps.device)
    y = py[..., None, None] + offsets[:, None]
    x = px[..., None, None] + offsets[None, :]
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    flat = (y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)).flatten(2)
    mass = maps.gather(2, flat).view(n, channels, len(offsets), len(offsets)) * inside
    total = mass.sum(dim=(2, 3)).clamp_min(1e-12)
    cx = (mass * x).sum(dim=(2, 3)) / total
    cy = (mass * y).sum(dim=(2, 3)) / total
    # Cell (i, j) covers pixels 4j .. 4j+3, whose middle is 4j + 1.5.
    points = torch.stack([cx, cy], dim=2) * STRIDE + (STRIDE - 1) / 2
    regions = len(REGIONS)
    sizes = output.sizes.float().view(n, regions, 2, rows * columns)
    at_peak = sizes.gather(3, peak[:, :regions, None, None].expand(-1, -1, 2, 1)).squeeze(3)
    return Found(points, presence, total / presence.clamp_min(1e-12), SIZE_UNIT * torch.exp(at_peak.clamp(-3, 3)))


def build(hyperparameters: dict[str, Any]) -> HandNet:
    """Build the network that weights were trained for."""
    return HandNet(width=int(hyperparameters["width"]), channels=int(hyperparameters.get("channels", FIRST)))
