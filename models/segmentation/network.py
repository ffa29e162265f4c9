"""The segmentation networks by name: one channel of normalised grey levels in, one score map a class out, all of one size.

The default, a U-Net, stands here; the others are built by the modules they stand in, which the default does not load.

Classes are those of P1: background, ulna, radius.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

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


Options = Mapping[str, Any]


def _unet(options: Options) -> nn.Module:
    return UNet(tuple(options.get("widths", (8, 16, 32, 64, 96))))


def _fcn(finest: int) -> Callable[[Options], nn.Module]:
    def made(options: Options) -> nn.Module:
        from models.segmentation.fcn import Fcn

        return Fcn(finest, len(CLASSES), int(options.get("hidden", 256)))

    return made


def _encoder_decoder(name: str) -> Callable[[Options], nn.Module]:
    def made(_: Options) -> nn.Module:
        from models.segmentation import encoder_decoder  # its ResNet is not needed to serve the default

        net: nn.Module = getattr(encoder_decoder, name)(len(CLASSES))
        return net

    return made


def _unet_plus_plus(options: Options) -> nn.Module:
    from models.segmentation.monai_networks import UNetPlusPlus  # MONAI comes with the extra `train`

    return UNetPlusPlus(len(CLASSES), int(options.get("depth", 4)))


def _vnet(_: Options) -> nn.Module:
    from models.segmentation.monai_networks import vnet

    return vnet(len(CLASSES))


def _auto_encoder(options: Options) -> nn.Module:
    from models.segmentation.monai_networks import AutoEncoderRegularised

    return AutoEncoderRegularised(len(CLASSES), int(options.get("size", 224)))


def _classical(method: str) -> Callable[[Options], nn.Module]:
    def made(options: Options) -> nn.Module:
        from models.segmentation.classical import Classical

        return Classical(method, int(options.get("size", 224)))

    return made


CLASSICAL: Final = ("threshold", "edge", "region-growing", "clustering", "graph-cut")
ARCHITECTURES: Final[Mapping[str, Callable[[Options], nn.Module]]] = {
    "unet": _unet,
    **{f"fcn{stride}s": _fcn(stride) for stride in (32, 16, 8, 4, 2)},
    "segnet": _encoder_decoder("SegNet"),
    "deeplabv3+": _encoder_decoder("DeepLabV3Plus"),
    "unet++": _unet_plus_plus,
    "vnet": _vnet,
    "dunet": _encoder_decoder("DeformableUNet"),
    "segresnet-vae": _auto_encoder,
    "patch-cnn": _encoder_decoder("PatchCnn"),
    **{method: _classical(method) for method in CLASSICAL},
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


def layout(net: nn.Module) -> torch.memory_format:
    """Return how a network wants its tensors laid out: channels last, the faster one on CPUs, unless it says otherwise."""
    wanted: torch.memory_format = getattr(net, "layout", torch.channels_last)
    return wanted
