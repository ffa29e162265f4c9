"""The networks of P5: their sizes, their halves, and that every architecture grades what it was built for."""

import pytest
import torch

from models.grading.network import ARCHITECTURES, COUNTS, WIDEST, build
from models.grading.resnext import ResNeXt50

MIB = 4 / 2**20  # of one float32 weight


def _weights(net: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in net.parameters()) * MIB


def test_the_sizes_are_those_of_the_paper_and_the_light_one_is_at_most_55_per_cent() -> None:
    # P5, table 5: 88.07 MB and 46.28 MB; a head of nine stages has 2048 * 9 weights.
    head = ResNeXt50(cross_stage=False).features * 9 * MIB
    whole, light = _weights(ResNeXt50(cross_stage=False)) + head, _weights(ResNeXt50(cross_stage=True)) + head
    assert whole == pytest.approx(88.07, rel=0.01)
    assert light == pytest.approx(46.28, rel=0.01)
    assert light / whole <= 0.55


def test_half_of_each_stage_takes_the_short_way() -> None:
    torch.manual_seed(0)
    trunk = ResNeXt50(cross_stage=True).eval()
    stage = trunk.stages[1]  # 256 channels in, 512 out
    x = torch.randn(1, 256, 8, 8)
    with torch.inference_mode():
        out = stage(x)
        only_second_half = x.clone()
        only_second_half[:, :128] += 1.0
        moved = stage(only_second_half)
    assert out.shape == (1, 512, 4, 4)
    # The second half of the channels never enters the residual stage, nor the first one the short way.
    assert not torch.equal(out[:, :256], moved[:, :256])
    assert torch.equal(out[:, 256:], moved[:, 256:])


def test_rectifiers_leak() -> None:
    kinds = {type(module) for module in ResNeXt50(cross_stage=False).modules()}
    assert torch.nn.LeakyReLU in kinds
    assert torch.nn.ReLU not in kinds


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_each_bone_probabilities_over_its_stages(architecture: str) -> None:
    net = build(architecture, {"width": 4, "head": "softmax"}).eval()
    with torch.inference_mode():
        chances = net.probabilities(net(torch.rand(1, 13, 32, 32)))
    assert chances.shape == (1, 13, WIDEST)
    torch.testing.assert_close(chances.sum(-1), torch.ones(1, 13))
    assert all(float(chances[0, bone, count:].sum()) == 0 for bone, count in enumerate(COUNTS))


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'vgg' is not one of fine, small, resnext-50, csp-resnext-50"):
        build("vgg", {})


@pytest.mark.parametrize("cross_stage", [False, True])
def test_a_quarter_keeps_every_block_and_group_with_a_quarter_of_the_channels(cross_stage: bool) -> None:
    whole, quarter = ResNeXt50(cross_stage=cross_stage), ResNeXt50(cross_stage=cross_stage, width=0.25)
    pairs = list(zip(whole.modules(), quarter.modules(), strict=True))
    assert [type(one) for one, _ in pairs] == [type(other) for _, other in pairs]
    convolutions = [(a, b) for a, b in pairs if isinstance(a, torch.nn.Conv2d) and isinstance(b, torch.nn.Conv2d)]
    assert all(4 * b.out_channels == a.out_channels and a.groups == b.groups for a, b in convolutions)
    assert quarter.features == 512
