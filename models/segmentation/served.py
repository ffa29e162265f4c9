"""The U-Net as it is served on a CPU: the function of `network.UNet`, in fewer passes over memory.

Half of a U-Net's time goes into its first level, whose maps are large and have few channels. Here a rectifier is part of the
convolution before it; two maps are convolved and added where `UNet` puts them together first; the largest of four pixels is found
row by row; and where registers are wide (AVX-512), a convolution to few channels says two neighbouring pixels at once. Only the
order of sums differs.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.segmentation.network import UNet

# Half of the single numbers in a register of AVX-512: so few channels leave room for those of a second pixel.
_FEW: Final = 8
_AROUND: Final = [1, 1]  # padding and dilation of a 3x3 convolution


class _Convolution:
    """A 3x3 convolution, its weights laid out for the processor once."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, pairs: bool) -> None:
        self.pairs = pairs and len(weight) <= _FEW
        if self.pairs:
            # Four columns of pixels tell two: the left one by the first three, the right one by the last three.
            weight = torch.cat((functional.pad(weight, (0, 1)), functional.pad(weight, (1, 0))))
            bias = None if bias is None else torch.cat((bias, bias))
        self.stride = [1, 2] if self.pairs else [1, 1]
        self.weight, self.bias = weight.contiguous(memory_format=torch.channels_last), bias
        self.fused = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch gives it no types
        if self.fused:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, _AROUND, self.stride, _AROUND, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return self._apart(self._then("none", x) if self.fused else self._plain(x))

    def rectified(self, x: Tensor) -> Tensor:
        return self._apart(self._then("relu", x) if self.fused else self._plain(x).relu_())

    def rectified_with(self, total: Tensor, x: Tensor) -> Tensor:
        """Add to what is there, in place, and rectify."""
        total = self._paired(total)
        if self.fused:
            add: Any = torch.ops.mkldnn._convolution_pointwise_.binary
            add(total, x, self.weight, self.bias, _AROUND, self.stride, _AROUND, 1, "add", 1.0, "relu", [], "")
        else:
            total.add_(self._plain(x)).relu_()
        return self._apart(total)

    def _then(self, what: str, x: Tensor) -> Tensor:
        """Convolve as torch's own compiler has it done, with what follows; where torch was built with oneDNN (x86, ARM)."""
        convolve: Any = torch.ops.mkldnn._convolution_pointwise
        y: Tensor = convolve(x, self.weight, self.bias, _AROUND, self.stride, _AROUND, 1, what, [], "")
        return y

    def _plain(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.bias, self.stride, _AROUND)

    def _apart(self, y: Tensor) -> Tensor:
        """See (n, 2 channels, rows, columns / 2) as (n, channels, rows, columns): channels last, they lie alike in memory."""
        films, channels, rows, columns = y.shape
        return _last(_first(y).reshape(films, rows, 2 * columns, channels // 2)) if self.pairs else y

    def _paired(self, y: Tensor) -> Tensor:
        films, channels, rows, columns = y.shape
        return _last(_first(y).reshape(films, rows, columns // 2, 2 * channels)) if self.pairs else y


class ServedUNet(nn.Module):
    """A U-Net whose normalisations are folded, to be asked and no longer trained."""

    def __init__(self, net: UNet) -> None:
        """Take over the network's weights."""
        super().__init__()
        wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
        with torch.inference_mode():
            self.down = [_made(block, pairs=wide and level == 0) for level, block in enumerate(net.down)]
            levels = reversed(range(len(net.up)))
            self.up = [
                _made(block, pairs=wide and level == 0, joining=True)
                for level, block in zip(levels, net.up, strict=True)
            ]
        self.narrow = net.narrow
        self.weight, bias = net.head.weight[:, :, 0, 0], net.head.bias
        self.bias = torch.zeros(len(self.weight), 1) if bias is None else bias[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, size, size) to scores (n, 3, size, size)."""
        kept: list[Tensor] = []
        for level, (first, second) in enumerate(self.down):
            x = second.rectified(first.rectified(x if level == 0 else _halved(x)))
            kept.append(x)
        kept.pop()
        for narrow, (coarse, fine, second) in zip(self.narrow, self.up, strict=True):
            x = functional.interpolate(narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = second.rectified(fine.rectified_with(coarse(x), kept.pop()))
        # As a product of matrices: torch has no faster convolution to so few channels.
        scores = self.weight @ _first(x).flatten(1, 2).mT
        return scores.add_(self.bias).view(len(x), -1, *x.shape[2:])


def _made(block: nn.Module, *, pairs: bool, joining: bool = False) -> list[_Convolution]:
    """Make the convolutions of a pair; the first of one that joins two maps becomes one for each of them."""
    first, second = (part for part in block.children() if isinstance(part, nn.Conv2d))
    parts = (
        zip(first.weight.chunk(2, dim=1), (first.bias, None), strict=True) if joining else [(first.weight, first.bias)]
    )
    return [_Convolution(*own, pairs=pairs) for own in (*parts, (second.weight, second.bias))]


def _halved(x: Tensor) -> Tensor:
    """Return what `max_pool2d(x, 2)` does: of two rows first, then of two neighbours."""
    pixels = _first(x)
    pixels = torch.maximum(pixels[:, 0::2], pixels[:, 1::2])
    return _last(torch.maximum(pixels[:, :, 0::2], pixels[:, :, 1::2]))


def _first(x: Tensor) -> Tensor:
    """See (n, channels, rows, columns) as it lies in memory: (n, rows, columns, channels)."""
    return x.permute(0, 2, 3, 1)


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)
