"""The networks of stage grading: all 13 crops of a film in one batch, one trunk, one head a bone.

`fine` is the fast default: a residual trunk of 0.7 M parameters whose later stages are told which bone they see; its stem
folds 2 x 2 pixels into channels, so that the growth plate of a large crop costs no slow first stage. `small` is its
predecessor for crops of 80 pixels; `resnext-50` and `csp-resnext-50` are those of P5. The head is one of `HEADS`; each gives a
probability to every stage of a bone, the absent centre first.
"""

from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import standards
from models.grading.crops import enhance
from models.grading.resnext import ResNeXt50
from models.regions import RUS

LEVELS: Final = tuple(standards.RUS_CHN.levels(bone) for bone in RUS)  # of each bone, absent first
COUNTS: Final = tuple(len(levels) for levels in LEVELS)
WIDEST: Final = max(COUNTS)
PARTS: Final = 4  # of a stage, which the head `quarters` tells apart
Head = Literal["softmax", "corn", "ordered", "quarters"]
OUTPUTS: Final[dict[Head, int]] = {"softmax": WIDEST, "corn": WIDEST - 1, "ordered": 2, "quarters": PARTS * WIDEST}
# Name -> whether half the channels take the short way, and the share of their channels that all layers keep. The halves and quarters
# are for a processor: all blocks of P5's networks, a fourth and a sixteenth of the work.
DEEP: Final = {
    "resnext-50": (False, 1.0), "csp-resnext-50": (True, 1.0), "resnext-50-half": (False, 0.5), "csp-resnext-50-half": (True, 0.5),
    "resnext-50-quarter": (False, 0.25), "csp-resnext-50-quarter": (True, 0.25),
}  # fmt: skip
ARCHITECTURES: Final = ("fine", "small", *DEEP)


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    folds = (("first", "first_norm"), ("second", "second_norm"))

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity(),
                nn.Conv2d(channels_in, channels_out, 1, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels_in, r, c) to (n, channels_out, r / stride, c / stride)."""
        inner = functional.relu(self.first_norm(self.first(x)), inplace=True)
        inner = self.second_norm(self.second(inner))
        return functional.relu(inner + self.shortcut(x), inplace=True)


class Staged(nn.Module):
    """What all graders share: one head a bone over the features of a trunk.

    Parameters
    ----------
    head
        softmax: one logit a stage. corn: one logit a step, the probability to be past it given that all before it were
        passed (Shi, Cao and Raschka 2023). ordered: a maturity and its uncertainty, cut at the whole numbers. quarters: one
        logit a quarter of a stage, so that the way through a stage teaches too; a stage has the sum of its quarters.
    """

    temperature: Tensor  # of each bone
    allowed: Tensor  # (13, WIDEST): which stages each bone has

    def __init__(self, features: int, head: Head, dropout: float) -> None:
        super().__init__()
        if head not in OUTPUTS:
            raise ValueError(f"head {head!r} is not one of {', '.join(OUTPUTS)}")
        self.head = head
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.randn(len(RUS), features, OUTPUTS[head]) * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(RUS), OUTPUTS[head]))
        self.register_buffer("temperature", torch.ones(len(RUS)))
        self.register_buffer("allowed", torch.arange(WIDEST)[None, :] < torch.tensor(COUNTS)[:, None], persistent=False)

    def features(self, crops: Tensor) -> Tensor:
        """Map (films, 13, rows, columns) crops in 0..1 to (films, 13, features)."""
        raise NotImplementedError

    def forward(self, crops: Tensor) -> Tensor:
        """Map (films, 13, rows, columns) crops in 0..1, in the order of `RUS`, to the head's outputs (films, 13, outputs)."""
        features = self.dropout(self.features(crops)).float()
        return torch.einsum("nbf,bfo->nbo", features, self.weight.float()) + self.bias.float()

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Map the head's outputs to (films, 13, `WIDEST`) calibrated stage probabilities; stages a bone lacks have none."""
        return self.log_probabilities(outputs).exp()

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Return the logarithms of `probabilities`."""
        outputs = outputs.float()
        temperature = self.temperature[:, None]
        if self.head == "softmax":
            return (outputs / temperature).masked_fill(~self.allowed, -1e4).log_softmax(-1)
        if self.head == "quarters":
            parts = self.log_parts(outputs)
            return parts.reshape(*parts.shape[:-1], WIDEST, PARTS).logsumexp(-1).clamp_min(-1e4)
        if self.head == "corn":
            scaled = outputs / temperature
            past = functional.logsigmoid(scaled).masked_fill(~self.allowed[:, 1:], -1e4)
            stopped = functional.logsigmoid(-scaled).masked_fill(~self.allowed[:, 1:], 0.0)
            reached = functional.pad(past.cumsum(-1), (1, 0))  # stage 0 is always reached
            return (reached + functional.pad(stopped, (0, 1))).clamp_min(-1e4)
        maturity, spread = self.maturity(outputs)
        cuts = torch.arange(1, WIDEST, device=outputs.device, dtype=outputs.dtype)
        below = torch.special.ndtr((cuts - maturity[..., None]) / (spread * self.temperature)[..., None])
        below = below.masked_fill(~self.allowed[:, 1:], 1.0)
        below = functional.pad(functional.pad(below, (1, 0)), (0, 1), value=1.0)
        return below.diff(dim=-1).clamp_min(1e-7).masked_fill(~self.allowed, 1e-12).log().log_softmax(-1)

    def log_parts(self, outputs: Tensor) -> Tensor:
        """Return the logarithm of the probability of each quarter of a stage of the `quarters` head, (films, 13, `PARTS` x `WIDEST`)."""
        allowed = self.allowed.repeat_interleave(PARTS, dim=-1)
        return (outputs.float() / self.temperature[:, None]).masked_fill(~allowed, -1e4).log_softmax(-1)

    def maturity(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maturity of the `ordered` head and its standard deviation, in stages, each (films, 13)."""
        counts = torch.tensor(COUNTS, device=outputs.device, dtype=outputs.dtype)
        return outputs[..., 0] * 4 + counts / 2, functional.softplus(outputs[..., 1]) + 0.03


class StageNet(Staged):
    """The fast grader: a residual trunk whose later stages are told which bone they see.

    Parameters
    ----------
    width
        Channels of the first stage; the others have 2, 4 and 8 times as many.
    folded
        The stem of `fine`.
    """

    def __init__(self, width: int = 16, head: Head = "softmax", dropout: float = 0.1, *, folded: bool = False) -> None:
        """Build the network with random weights."""
        super().__init__(2 * 8 * width, head, dropout)
        if folded:
            self.stem = nn.Sequential(
                nn.PixelUnshuffle(2),
                nn.Conv2d(8, 2 * width, 5, 2, 2, bias=False),
                nn.BatchNorm2d(2 * width),
                nn.ReLU(inplace=True),
            )
            self.early = nn.Sequential(_Block(2 * width, 2 * width, 1), _Block(2 * width, 2 * width, 1))
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(2, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
            )
            self.early = nn.Sequential(
                _Block(width, width, 1), _Block(width, 2 * width, 2), _Block(2 * width, 2 * width, 1)
            )
        self.middle = nn.Sequential(_Block(2 * width, 4 * width, 2), _Block(4 * width, 4 * width, 1))
        self.late = nn.Sequential(_Block(4 * width, 8 * width, 2), _Block(8 * width, 8 * width, 1))
        self.embedding = nn.Embedding(len(RUS), 2 * (2 * width + 4 * width))
        nn.init.zeros_(self.embedding.weight)

    def features(self, crops: Tensor) -> Tensor:
        """Map (films, 13, rows, columns) crops in 0..1 to (films, 13, features)."""
        films, bones, rows, columns = crops.shape
        x = enhance(crops.reshape(films * bones, 1, rows, columns)).contiguous(memory_format=torch.channels_last)
        told = self.embedding.weight.repeat(films, 1)[:, :, None, None]
        x = self.early(self.stem(x))
        c = x.shape[1]
        x = self.middle(x * (1 + told[:, :c]) + told[:, c : 2 * c])
        x = self.late(x * (1 + told[:, 2 * c : 4 * c]) + told[:, 4 * c :])
        x = torch.cat((x.mean((2, 3)), x.amax((2, 3))), dim=1)
        return x.reshape(films, bones, -1)


class DeepStageNet(Staged):
    """The graders of P5: one of its trunks for all bones, one head a bone."""

    def __init__(self, *, cross_stage: bool, width: float = 1.0, head: Head = "softmax", dropout: float = 0.1) -> None:
        """Build the network with random weights."""
        trunk = ResNeXt50(cross_stage=cross_stage, width=width)
        super().__init__(trunk.features, head, dropout)
        self.trunk = trunk

    def features(self, crops: Tensor) -> Tensor:
        """Map (films, 13, rows, columns) crops in 0..1 to (films, 13, features)."""
        films, bones, rows, columns = crops.shape
        x = enhance(crops.reshape(films * bones, 1, rows, columns)).contiguous(memory_format=torch.channels_last)
        return torch.as_tensor(self.trunk(x)).reshape(films, bones, -1)


def build(architecture: str, hyperparameters: dict[str, object]) -> Staged:
    """Return an untrained network by the name and hyperparameters that its metadata holds."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    head: Head = hyperparameters.get("head", "softmax")  # type: ignore[assignment]  # checked by the constructor
    if architecture in DEEP:
        cross_stage, share = DEEP[architecture]
        return DeepStageNet(cross_stage=cross_stage, width=share, head=head)
    return StageNet(int(str(hyperparameters.get("width", 16))), head, folded=architecture == "fine")
