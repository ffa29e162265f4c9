"""The segmentation networks: one channel of normalised grey levels in, one score map a class out, all of one size.

Classes are those of P1: background, ulna, radius.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import vgg16

CLASSES: Final = ("background", "ulna", "radius")


class _Pair(nn.Sequential):
    """Two 3x3 convolutions with batch normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """U-Net (Ronneberger 2015) with same padding and a narrow first level, for 2 CPU cores."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32, 64, 96)) -> None:
        """Build the network; the input's side must be a multiple of 2 ** (len(widths) - 1)."""
        super().__init__()
        self.down = nn.ModuleList([_Pair(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True)])
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.narrow = nn.ModuleList([nn.Conv2d(a, b, 1) for a, b in ups])
        self.up = nn.ModuleList([_Pair(2 * b, b) for _, b in ups])
        self.head = nn.Conv2d(widths[0], len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, size, size) to scores (n, 3, size, size)."""
        kept: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else functional.max_pool2d(x, 2))
            kept.append(x)
        kept.pop()
        for narrow, block in zip(self.narrow, self.up, strict=True):
            # Narrow first, then enlarge: the same function at a quarter of the cost.
            x = functional.interpolate(narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat((x, kept.pop()), dim=1))
        scores: Tensor = self.head(x)
        return scores


class Fcn(nn.Module):
    """Fully convolutional VGG-16 (Long 2015; P1) whose skips reach down to a stride of `finest`.

    The fully connected layers are convolutions of `hidden` channels; the score maps of coarser stages are enlarged by
    transposed convolutions that start as bilinear interpolation, and fused by addition.
    """

    def __init__(self, finest: int, hidden: int = 1024) -> None:
        """Build the variant; `finest` is 32, 16, 8, 4 or 2."""
        super().__init__()
        layers = list(vgg16(weights=None).features)
        layers[0] = nn.Conv2d(1, 64, 3, padding=1)  # one channel of grey, not three of colour
        cuts = [index + 1 for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        starts = [0, *cuts[:-1]]
        self.stages = nn.ModuleList([nn.Sequential(*layers[a:b]) for a, b in zip(starts, cuts, strict=True)])
        self.classifier = nn.Sequential(
            nn.Conv2d(512, hidden, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout2d(0.5),
            nn.Conv2d(hidden, hidden, 1), nn.ReLU(inplace=True), nn.Dropout2d(0.5),
            nn.Conv2d(hidden, len(CLASSES), 1),
        )  # fmt: skip
        self.finest = finest
        channels = {16: 512, 8: 256, 4: 128, 2: 64}
        strides = [stride for stride in (16, 8, 4, 2) if stride >= finest]
        self.skips = nn.ModuleList([nn.Conv2d(channels[stride], len(CLASSES), 1) for stride in strides])
        self.rise = nn.ModuleList([_bilinear(2) for _ in strides])
        self.last = _bilinear(finest)
        for parameter in self.skips.parameters():
            nn.init.zeros_(parameter)  # a variant starts as the coarser one it refines

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, size, size) to scores (n, 3, size, size); the side must be a multiple of 32."""
        pools: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            pools.append(x)
        scores: Tensor = self.classifier(pools.pop())
        for skip, rise in zip(self.skips, self.rise, strict=True):
            scores = rise(scores) + skip(pools.pop())
        whole: Tensor = self.last(scores)
        return whole


def _bilinear(stride: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that starts as bilinear interpolation by `stride`."""
    layer = nn.ConvTranspose2d(len(CLASSES), len(CLASSES), 2 * stride, stride, padding=stride // 2, bias=False)
    line = 1 - (torch.arange(2 * stride) + 0.5 - stride).abs() / stride
    with torch.no_grad():
        layer.weight.zero_()
        for index in range(len(CLASSES)):
            layer.weight[index, index] = line[:, None] * line[None, :]
    return layer


def _unet(options: Mapping[str, Any]) -> nn.Module:
    return UNet(tuple(options.get("widths", (8, 16, 32, 64, 96))))


def _fcn(finest: int) -> Callable[[Mapping[str, Any]], nn.Module]:
    return lambda options: Fcn(finest, int(options.get("hidden", 1024)))


ARCHITECTURES: Final[Mapping[str, Callable[[Mapping[str, Any]], nn.Module]]] = {
    "unet": _unet,
    **{f"fcn{stride}s": _fcn(stride) for stride in (32, 16, 8, 4, 2)},
}


def build(architecture: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Return a new network of that name.

    Raises
    ------
    ValueError
        When there is none of that name.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"no segmentation network {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture](options or {})
