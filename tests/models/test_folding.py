"""A network with its normalisations folded says what it said before."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.detection.cast import CastNet
from models.detection.closer import Closer
from models.detection.network import HandNet
from models.folding import folded
from models.grading import network as grading
from models.regression import network as regression
from models.segmentation import network as segmentation


def _used(net: nn.Module, *inputs: Tensor) -> nn.Module:
    """Give every normalisation statistics and a scale that are not those of a new network."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                for values, low, high in (
                    (part.running_mean, -0.5, 0.5),
                    (part.running_var, 0.5, 2.0),
                    (part.weight, 0.5, 1.5),
                    (part.bias, -0.5, 0.5),
                ):
                    assert values is not None
                    values.uniform_(low, high, generator=generator)
    return net.eval()


@pytest.mark.parametrize("name", ["unet", "HandNet", "Closer", "CastNet", "fine", "maturity-net"])
def test_folded_into_its_convolutions_a_network_says_the_same(name: str) -> None:
    torch.manual_seed(0)
    crops = torch.rand(1, 13, 64, 64)
    made: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "unet": (segmentation.build("unet", {"widths": [4, 8, 12]}), (torch.randn(2, 1, 32, 32),)),
        "HandNet": (HandNet(8), (torch.rand(1, 2, 64, 64),)),
        "Closer": (Closer(4), (torch.rand(3, 1, 48, 48), torch.arange(3))),
        "CastNet": (CastNet(4), (torch.rand(1, 2, 96, 96),)),
        "fine": (grading.build("fine", {"width": 4}), (crops,)),
        "maturity-net": (regression.build("maturity-net"), (torch.rand(2, 1, 100, 100), torch.tensor([0, 1]))),
    }
    net, inputs = made[name]
    net = _used(net)
    with torch.inference_mode():
        before = net(*inputs)
        faster = folded(copy.deepcopy(net).train())
        after = faster(*inputs)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in faster.modules())
    assert not faster.training
    for one, other in zip(*([said] if isinstance(said, Tensor) else said for said in (before, after)), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
    assert any(isinstance(part, nn.BatchNorm2d) for part in net.modules())  # the original was left alone
