"""Networks of P3 that MONAI has: U-Net++, V-Net and the auto-encoder-regularised network (extra `train`)."""

import torch
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.segresnet import SegResNetVAE
from monai.networks.nets.vnet import VNet
from torch import Tensor, nn

from models.segmentation.losses import Output


class UNetPlusPlus(nn.Module):
    """U-Net++ (Zhou 2018), every head supervised in training; `depth` 1 to 4 prunes it to the first heads."""

    def __init__(self, classes: int, depth: int = 4) -> None:
        """Build it; the input's side must be a multiple of 16."""
        super().__init__()
        if depth not in (1, 2, 3, 4):
            raise ValueError(f"depth {depth}: a U-Net++ is pruned to 1, 2, 3 or 4 of its heads")
        batch = ("batch", {"affine": True})
        self.net = BasicUNetPlusPlus(2, 1, classes, (8, 16, 32, 64, 96, 8), deep_supervision=True, norm=batch)
        self.depth = depth

    def forward(self, x: Tensor) -> Output:
        """Map (n, 1, size, size) to scores (n, classes, size, size); in training to those of all heads."""
        net = self.net
        rows: list[list[Tensor]] = []  # rows[i]: nodes of level i so far
        heads: list[Tensor] = []
        last = 4 if self.training else self.depth
        for level in range(last + 1):
            rows.append([getattr(net, f"conv_{level}_0")(rows[-1][0] if rows else x)])
            for above in range(level - 1, -1, -1):
                step = level - above
                known = torch.cat(rows[above], dim=1)
                rows[above].append(getattr(net, f"upcat_{above}_{step}")(rows[above + 1][step - 1], known))
            if level:
                heads.append(getattr(net, f"final_conv_0_{level}")(rows[0][level]))
        return (heads, x.new_zeros(())) if self.training else heads[-1]


class AutoEncoderRegularised(nn.Module):
    """The winner of BraTS 2018 (Myronenko 2018): in training a second decoder draws the crop again from the encoder's code."""

    layout = torch.contiguous_format  # MONAI's code is flattened with `view`, which channels last forbids

    def __init__(self, classes: int, size: int, weight: float = 0.1) -> None:
        """Build it for crops of `size` pixels, a multiple of 16; `weight` is that of drawing the crop again."""
        super().__init__()
        self.net = SegResNetVAE((size, size), spatial_dims=2, init_filters=8, in_channels=1, out_channels=classes)
        self.weight = weight

    def forward(self, x: Tensor) -> Output:
        """Map (n, 1, size, size) to scores (n, classes, size, size); in training with the penalty."""
        scores, penalty = self.net(x)
        return ([scores], self.weight * penalty) if self.training else scores


def vnet(classes: int) -> nn.Module:
    """V-Net (Milletari 2016) in two dimensions: residual stages of 5x5 convolutions; its paper trains it with Dice."""
    net: nn.Module = VNet(spatial_dims=2, in_channels=1, out_channels=classes, dropout_prob_up=(0.25, 0.25))
    return net
