"""ZH05-DL-ResNet50 (P4): a texture overlay before the film, a ResNet-50, and eleven learnt looks at the China-05 regions.

Four networks, the steps of P4's ablation: `cnn` (plain convolutions), `resnet-50`, `dl-resnet-50` (the same on the overlay of
`texture`), `zh05-dl-resnet-50` (attention added after the pooling layer). All give 19 classes, 0 to 18 years. As in P4 the sex
is no input. Where a graphics card is missing, the ResNet-50 can be narrowed: all its blocks, a share of its channels.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck

CLASSES: Final = 19
FEATURES: Final = 512  # of each region
# name -> whether the film goes through the texture overlay first
ARCHITECTURES: Final = {"cnn": False, "resnet-50": False, "dl-resnet-50": True, "zh05-dl-resnet-50": True}
# Where each look begins: middle x, middle y and half side of the region on a film squashed to a square, as fractions; means over
# 80 upright left hands. The transformers move on from there.
ANCHORS: Final = {
    "radius": (0.507, 0.790, 0.10), "ulna": (0.391, 0.794, 0.09), "mc1": (0.627, 0.675, 0.08), "mc3": (0.494, 0.456, 0.08),
    "mc5": (0.329, 0.514, 0.07), "pp1": (0.755, 0.557, 0.08), "mp3": (0.490, 0.266, 0.07), "mp5": (0.240, 0.401, 0.07),
    "dp1": (0.832, 0.475, 0.08), "dp3": (0.488, 0.166, 0.07), "dp5": (0.199, 0.343, 0.07),
}  # fmt: skip
LOOK: Final = 24  # pixels of a sub-region
SLACK: Final = 1.4  # a look begins this much wider than its region
STAGES: Final = (
    (64, 3),
    (128, 4),
    (256, 6),
    (512, 3),
)  # ResNet-50: channels of the 3 x 3 convolutions, blocks (He et al. 2016)


class SqueezeExcitation(nn.Module):
    """Weigh channels by what the whole map holds (Hu et al. 2020)."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Keep the shape, (n, channels, rows, columns)."""
        return maps * torch.as_tensor(self.gate(maps.mean((2, 3))))[:, :, None, None]


def resnet_50(channels: int, width: float = 1.0) -> tuple[nn.Module, int]:
    """Return ResNet-50 up to its pooled features, and how many these are; `width` is the share of channels every layer keeps."""
    inputs = round(64 * width)
    layers: list[nn.Module] = [
        nn.Conv2d(channels, inputs, 7, 2, 3, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    for stage, (planes, blocks) in enumerate(STAGES):
        own = round(planes * width)
        outputs = own * Bottleneck.expansion
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            way = (
                None
                if block
                else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            )
            layers.append(Bottleneck(inputs, own, stride, way))
            inputs = outputs
    trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk, inputs


def _layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


class Recognition(nn.Module):
    """One region's network, with squeeze-and-excitation in its hidden layers: (n, channels, LOOK, LOOK) -> (n, 512)."""

    def __init__(self, channels: int, width: float = 1.0) -> None:
        super().__init__()
        first, second, third = (max(8, round(own * width)) for own in (32, 64, 128))
        self.body = nn.Sequential(
            *_layer(channels, first, 1),
            SqueezeExcitation(first),
            *_layer(first, second, 2),
            SqueezeExcitation(second),
            *_layer(second, third, 2),
            SqueezeExcitation(third),
        )
        self.head = nn.Sequential(nn.Linear(third, FEATURES), nn.ReLU(inplace=True))

    def forward(self, looks: Tensor) -> Tensor:
        """Return the region's vector."""
        return torch.as_tensor(self.head(self.body(looks).mean((2, 3))))


class China05Attention(nn.Module):
    """Eleven spatial transformers (Jaderberg et al. 2015) and the recognition network of each.

    One localisation network looks at the whole film and says for each region how far its look moves and how much it widens; its
    last layer begins at zero, so that every look begins at its anchor.
    """

    anchors: Tensor  # (11, 3) in the coordinates of grid_sample

    def __init__(self, channels: int, width: float = 1.0) -> None:
        super().__init__()
        self.localisation = nn.Sequential(
            *_layer(channels, 16, 2), *_layer(16, 32, 2), *_layer(32, 32, 2), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.moves = nn.Linear(32 * 16, 3 * len(ANCHORS))
        nn.init.zeros_(self.moves.weight)
        nn.init.zeros_(self.moves.bias)
        self.recognition = nn.ModuleList(Recognition(channels, width) for _ in ANCHORS)
        rows = [(2 * x - 1, 2 * y - 1, 2 * half * SLACK) for x, y, half in ANCHORS.values()]
        self.register_buffer("anchors", torch.tensor(rows, dtype=torch.float32), persistent=False)

    def places(self, films: Tensor) -> Tensor:
        """Return the middle and half side of each look, (n, 11, 3), in -1..1 of the film."""
        moves = torch.tanh(self.moves(self.localisation(films))).float().reshape(len(films), -1, 3)
        middle = self.anchors[:, :2] + 0.4 * moves[..., :2]
        side = self.anchors[:, 2:] * torch.exp(0.5 * moves[..., 2:])
        return torch.cat((middle, side), dim=2)

    def forward(self, films: Tensor) -> Tensor:
        """Map (n, channels, rows, columns) to (n, 11 * 512)."""
        vectors = []
        for index, place in enumerate(self.places(films).unbind(1)):
            zero = torch.zeros_like(place[:, 0])
            theta = torch.stack(
                (
                    torch.stack((place[:, 2], zero, place[:, 0]), dim=1),
                    torch.stack((zero, place[:, 2], place[:, 1]), dim=1),
                ),
                dim=1,
            )
            grid = functional.affine_grid(theta, [len(films), films.shape[1], LOOK, LOOK], align_corners=False)
            look = functional.grid_sample(films.float(), grid, padding_mode="border", align_corners=False)
            vectors.append(self.recognition[index](look))
        return torch.cat(vectors, dim=1)


class AgeClassifier(nn.Module):
    """One of the four networks of P4's ablation.

    Parameters
    ----------
    width
        Share of ResNet-50's channels that its trunk keeps, and of those of the looks' networks; P4 has 1. The plain convolutions stay.

    Raises
    ------
    ValueError
        When the name is unknown; the known ones are listed.
    """

    def __init__(self, architecture: str, channels: int = 3, dropout: float = 0.2, *, width: float = 1.0) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
        self.attention = China05Attention(channels, width) if architecture.startswith("zh05") else None
        if architecture == "cnn":
            layers = [
                module for pair in ((channels, 32), (32, 64), (64, 128), (128, 256)) for module in _layer(*pair, 2)
            ]
            self.trunk: nn.Module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
            features = 256
        else:
            self.trunk, features = resnet_50(channels, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features + (len(ANCHORS) * FEATURES if self.attention else 0), CLASSES)

    def forward(self, films: Tensor) -> Tensor:
        """Map (n, 3, side, side) in 0..1 to (n, 19) logits."""
        vector = self.trunk(films)
        if self.attention is not None:
            vector = torch.cat((vector, self.attention(films).to(vector.dtype)), dim=1)
        return torch.as_tensor(self.head(self.dropout(vector)))
