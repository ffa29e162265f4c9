"""Encoder-decoder networks of P3 that no library here has whole: SegNet, DeepLabv3+, DUNet and the sliding-patch CNN.

Their parts are torchvision's: VGG-16, ResNet-50, the atrous pyramid, the deformable convolution.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50, vgg16_bn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import DeformConv2d


class SegNet(nn.Module):
    """SegNet (Badrinarayanan 2017): VGG-16 and its mirror image; what was pooled goes back to where it was the largest."""

    def __init__(self, classes: int) -> None:
        """Build it; the input's side must be a multiple of 32."""
        super().__init__()
        layers = list(vgg16_bn(weights=None).features)
        layers[0] = nn.Conv2d(1, 64, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        stage: list[nn.Module] = []
        for layer in layers:
            if isinstance(layer, nn.MaxPool2d):
                self.down.append(nn.Sequential(*stage))
                stage = []
            else:
                stage.append(layer)
        for block in reversed(list(self.down)):
            mirrored: list[nn.Module] = []
            for layer in reversed([layer for layer in block.children() if isinstance(layer, nn.Conv2d)]):
                outputs = layer.in_channels if layer.in_channels > 1 else 64
                mirrored += [nn.Conv2d(layer.out_channels, outputs, 3, padding=1, bias=False)]
                mirrored += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            self.up.append(nn.Sequential(*mirrored))
        self.head = nn.Conv2d(64, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, size, size) to scores (n, classes, size, size)."""
        places: list[Tensor] = []
        for block in self.down:
            x, place = functional.max_pool2d(block(x), 2, return_indices=True)
            places.append(place)
        for block in self.up:
            x = block(functional.max_unpool2d(x.contiguous(), places.pop().contiguous(), [2, 2]))
        scores: Tensor = self.head(x)
        return scores


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ (Chen 2018): ResNet-50 at stride 16, atrous pyramid, and a decoder that looks at stride 4 again."""

    layout = (
        torch.contiguous_format
    )  # dilated convolutions have no finite gradient in bfloat16, channels last (torch 2.14)

    def __init__(self, classes: int) -> None:
        """Build it; the input's side must be a multiple of 16."""
        super().__init__()
        trunk = resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
        first = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.fine = nn.Sequential(first, trunk.bn1, trunk.relu, trunk.maxpool, trunk.layer1)
        self.coarse = nn.Sequential(trunk.layer2, trunk.layer3, trunk.layer4)
        self.pyramid = ASPP(2048, [6, 12, 18])
        self.narrow = nn.Sequential(nn.Conv2d(256, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(inplace=True))
        self.decoder = nn.Sequential(
            nn.Conv2d(304, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(inplace=True),
            nn.Conv2d(256, classes, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, size, size) to scores (n, classes, size, size)."""
        fine = self.fine(x)
        wide = functional.interpolate(
            self.pyramid(self.coarse(fine)), size=fine.shape[2:], mode="bilinear", align_corners=False
        )
        scores = self.decoder(torch.cat((wide, self.narrow(fine)), dim=1))
        return functional.interpolate(scores, size=x.shape[2:], mode="bilinear", align_corners=False)


class _Deformable(nn.Module):
    """A 3x3 convolution whose nine samples lie where a second one says (Dai 2017)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(inputs, 18, 3, padding=1)
        self.convolution = DeformConv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]  # a convolution with a bias has one

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(
            "cuda" if x.is_cuda else "cpu", enabled=False
        ):  # torchvision's kernel knows no bfloat16 on the CPU
            x = x.float()
            bent: Tensor = self.convolution(x, self.offsets(x))
            return bent


def _plain(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def _pair(inputs: int, outputs: int, *, deformable: bool) -> nn.Sequential:
    convolution = _Deformable if deformable else _plain
    return nn.Sequential(
        convolution(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        convolution(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
    )  # fmt: skip


class DeformableUNet(nn.Module):
    """DUNet (Jin 2019): a U-Net with deformable convolutions; from `bent` levels down, since they are slow on fine grids."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (8, 16, 32, 64), bent: int = 2) -> None:
        """Build it; the input's side must be a multiple of 2 ** (len(widths) - 1)."""
        super().__init__()
        pairs = list(zip((1, *widths[:-1]), widths, strict=True))
        self.down = nn.ModuleList([_pair(a, b, deformable=k >= bent) for k, (a, b) in enumerate(pairs)])
        self.up = nn.ModuleList(
            [
                _pair(widths[k] + widths[k - 1], widths[k - 1], deformable=k > bent)
                for k in range(len(widths) - 1, 0, -1)
            ]
        )
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, size, size) to scores (n, classes, size, size)."""
        kept: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else functional.max_pool2d(x, 2))
            kept.append(x)
        kept.pop()
        for block in self.up:
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat((x, kept.pop()), dim=1))
        scores: Tensor = self.head(x)
        return scores


class PatchCnn(nn.Sequential):
    """The sliding-patch CNN (Ciresan 2012; P3): each pixel is named from the patch of 47 x 47 pixels about it.

    Cutting every patch out would compute every overlap again; dilated convolutions give the same answer for all at once.
    """

    layout = torch.contiguous_format  # as above

    def __init__(self, classes: int, width: int = 24) -> None:
        """Build it: one 3x3 convolution at dilations 1, 1, 2, 4, 7, 8 (reach 23), then two of one pixel."""
        layers: list[nn.Module] = []
        inputs = 1
        for dilation in (1, 1, 2, 4, 7, 8):
            layers += [nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inputs = width
        super().__init__(
            *layers, nn.Conv2d(width, 2 * width, 1), nn.ReLU(inplace=True), nn.Conv2d(2 * width, classes, 1)
        )
