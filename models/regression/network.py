"""Predict a distribution over months of bone age from a thumbnail and the sex."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.regression.appearance import channels

MONTHS: Final = 240  # classes 0..239 months; the oldest plate of Greulich and Pyle is 228
SEXES: Final = ("F", "M")  # index of the sex input


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut; when it halves the map, the shortcut averages instead of skipping pixels."""

    folds = (("convolution1", "norm1"), ("convolution2", "norm2"))

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, 2 if halve else 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        # He et al. 2019 (bag of tricks): each block starts as its shortcut.
        nn.init.zeros_(self.norm2.weight)
        shortcut: list[nn.Module] = [nn.AvgPool2d(2, 2, ceil_mode=True)] if halve else []
        if inputs != outputs:
            shortcut += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h or ceil(h / 2), ...)."""
        inner = functional.relu(self.norm1(self.convolution1(maps)), inplace=True)
        return functional.relu(self.norm2(self.convolution2(inner)) + self.shortcut(maps), inplace=True)


class MaturityNet(nn.Module):
    """A narrow residual network without pooling in its stem, and a head that joins the sex.

    The stem folds 2x2 pixels into channels: half the resolution at no loss, where a strided stem would drop three
    quarters of an aliased thumbnail's detail.

    Parameters
    ----------
    widths, depths
        Channels and number of residual blocks of each stage; each stage after the first halves the map.
    hidden
        Width of the head.
    dropout
        Share of the head's inputs dropped in training.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        depths: tuple[int, ...] = (1, 2, 2, 2),
        hidden: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(8, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        ]
        inputs = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for block in range(depth):
                layers.append(Residual(inputs, width, halve=stage > 0 and block == 0))
                inputs = width
        self.trunk = nn.Sequential(*layers)
        self.sex = nn.Embedding(len(SEXES), 32)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * inputs + 32, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, MONTHS),
        )
        self.register_buffer("months", torch.arange(MONTHS, dtype=torch.float32), persistent=False)

    def features(self, films: Tensor) -> Tensor:
        """Pool the trunk: (n, 1, 100, 100) grey levels -> (n, 2 * width)."""
        maps = self.trunk(channels(films).contiguous(memory_format=torch.channels_last)).float()
        return torch.cat((maps.mean((2, 3)), maps.amax((2, 3))), dim=1)

    def forward(self, films: Tensor, sex: Tensor) -> Tensor:
        """(n, 1, 100, 100) grey levels and (n,) indices into SEXES -> (n, MONTHS) logits."""
        return torch.as_tensor(self.head(torch.cat((self.features(films), self.sex(sex)), dim=1)))

    def expectation(self, logits: Tensor) -> Tensor:
        """Mean of the predicted distribution, in months: (n, MONTHS) -> (n,)."""
        return logits.float().softmax(1) @ torch.as_tensor(self.months)


ARCHITECTURES: Final = {
    "maturity-net": {"widths": (32, 64, 128, 256), "depths": (1, 2, 2, 2)},
    "maturity-net-wide": {"widths": (32, 80, 160, 320), "depths": (1, 2, 2, 2)},
}


def build(architecture: str, *, dropout: float = 0.0) -> MaturityNet:
    """Return an untrained network by name; `dropout` matters to training only.

    Raises
    ------
    ValueError
        When the name is unknown; the known ones are listed.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    sizes = ARCHITECTURES[architecture]
    return MaturityNet(widths=sizes["widths"], depths=sizes["depths"], dropout=dropout)
