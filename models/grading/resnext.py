"""The trunks of P5: ResNeXt-50 (32x4d) with leaky rectifiers, and CSP-ResNeXt-50, half of whose channels take a short way.

P5, section 2: the input of each of the four stages is split in two; one half goes through the residual stage, the other is
average-pooled and goes through one 1 x 1 convolution; both are joined and rectified. The stage's grouped convolutions keep
their width, its other convolutions work on half the channels.
"""

from typing import Final

import torch
from torch import Tensor, nn

BLOCKS: Final = (3, 4, 6, 3)  # of each stage
OUTPUTS: Final = (256, 512, 1024, 2048)
GROUPS: Final = 32
STEM: Final = 64
LEAK: Final = 0.01


class _Bottleneck(nn.Module):
    """1 x 1, grouped 3 x 3, 1 x 1 beside a shortcut (Xie et al. 2017, figure 3c)."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, groups=GROUPS, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.rectify = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, r, c) to (n, outputs, r / stride, c / stride)."""
        return torch.as_tensor(self.rectify(self.body(x) + self.shortcut(x)))


def _stage(inputs: int, width: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(inputs, width, outputs, stride)
    return nn.Sequential(first, *(_Bottleneck(outputs, width, outputs, 1) for _ in range(blocks - 1)))


class _CrossStage(nn.Module):
    """One stage of which half the channels take the short way (P5, figure 5)."""

    def __init__(self, inputs: int, width: int, outputs: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.taken = inputs // 2
        self.stage = _stage(self.taken, width, outputs // 2, blocks, stride)
        self.short = nn.Sequential(
            nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity(),
            nn.Conv2d(inputs - self.taken, outputs // 2, 1, bias=False),
            nn.BatchNorm2d(outputs // 2),
        )
        self.rectify = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, r, c) to (n, outputs, r / stride, c / stride)."""
        joined = torch.cat((self.stage(x[:, : self.taken]), self.short(x[:, self.taken :])), dim=1)
        return torch.as_tensor(self.rectify(joined))


class ResNeXt50(nn.Module):
    """Map (n, channels, rows, columns) to (n, features), 2048 at full width.

    Parameters
    ----------
    cross_stage
        CSP-ResNeXt-50 instead of ResNeXt-50.
    width
        Share of the channels that every layer keeps, the 32 groups with fewer channels each; P5 has 1.
    """

    def __init__(self, *, cross_stage: bool, width: float = 1.0, channels: int = 2) -> None:
        super().__init__()
        inputs = round(STEM * width)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, inputs, 7, 2, 3, bias=False),
            nn.MaxPool2d(3, 2, 1),
            nn.BatchNorm2d(inputs),
            nn.LeakyReLU(LEAK, inplace=True),
        )
        stages: list[nn.Module] = []
        for index, (blocks, full) in enumerate(zip(BLOCKS, OUTPUTS, strict=True)):
            outputs = round(full * width)
            make = _CrossStage if cross_stage else _stage
            stages.append(make(inputs, outputs // 2, outputs, blocks, 1 if index == 0 else 2))
            inputs = outputs
        self.features = inputs
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=LEAK, mode="fan_out", nonlinearity="leaky_relu")
            elif isinstance(module, _Bottleneck):
                nn.init.zeros_(module.body[-1].weight)  # type: ignore[arg-type]  # each block begins as its shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features."""
        return torch.as_tensor(self.stages(self.stem(x)).mean((2, 3)))
