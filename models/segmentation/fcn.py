"""The fully convolutional networks of P1: VGG-16 whose skips reach down to a stride of 32, 16, 8, 4 or 2."""

import torch
from torch import Tensor, nn
from torchvision.models import vgg16_bn


class Fcn(nn.Module):
    """Fully convolutional VGG-16 (Long 2015; P1) whose skips reach down to a stride of `finest`.

    The fully connected layers are convolutions of `hidden` channels; the score maps of coarser stages are enlarged by
    transposed convolutions that start as bilinear interpolation, and fused by addition. P1 starts from ImageNet weights,
    which are not shipped here; so that it learns from random ones, VGG-16 is taken with batch normalisation.
    """

    def __init__(self, finest: int, classes: int, hidden: int = 256) -> None:
        """Build the variant; `finest` is 32, 16, 8, 4 or 2."""
        super().__init__()
        layers = list(vgg16_bn(weights=None).features)
        layers[0] = nn.Conv2d(1, 64, 3, padding=1)  # one channel of grey, not three of colour
        cuts = [index + 1 for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        starts = [0, *cuts[:-1]]
        self.stages = nn.ModuleList([nn.Sequential(*layers[a:b]) for a, b in zip(starts, cuts, strict=True)])
        self.classifier = nn.Sequential(
            nn.Conv2d(512, hidden, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout2d(0.5),
            nn.Conv2d(hidden, hidden, 1), nn.ReLU(inplace=True), nn.Dropout2d(0.5),
            nn.Conv2d(hidden, classes, 1),
        )  # fmt: skip
        channels = {16: 512, 8: 256, 4: 128, 2: 64}
        strides = [stride for stride in (16, 8, 4, 2) if stride >= finest]
        self.skips = nn.ModuleList([nn.Conv2d(channels[stride], classes, 1) for stride in strides])
        self.rise = nn.ModuleList([_bilinear(2, classes) for _ in strides])
        self.last = _bilinear(finest, classes)
        for parameter in self.skips.parameters():
            nn.init.zeros_(parameter)  # a variant starts as the coarser one it refines

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, size, size) to scores (n, classes, size, size); the side must be a multiple of 32."""
        pools: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            pools.append(x)
        with torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):
            # A wide kernel on a map of few pixels has no finite gradient in bfloat16 on the CPU (torch 2.14).
            scores: Tensor = self.classifier(pools.pop().float())
        for skip, rise in zip(self.skips, self.rise, strict=True):
            scores = rise(scores) + skip(pools.pop())
        whole: Tensor = self.last(scores)
        return whole


def _bilinear(stride: int, classes: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that starts as bilinear interpolation by `stride`."""
    layer = nn.ConvTranspose2d(classes, classes, 2 * stride, stride, padding=stride // 2, bias=False)
    line = 1 - (torch.arange(2 * stride) + 0.5 - stride).abs() / stride
    with torch.no_grad():
        layer.weight.zero_()
        for index in range(classes):
            layer.weight[index, index] = line[:, None] * line[None, :]
    return layer
