"""The losses of stage grading; all but cross-entropy know that stages are in order.

The truth of a phantom is a continuous maturity: its whole part is the stage, its fraction the way to the next one. `soft`
and `ordered` use it: near the border of two stages both are asked for. `quarters` asks for the place within the stage as well.
"""

from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.grading.network import COUNTS, PARTS, WIDEST, Head, Staged

Loss = Literal["cross-entropy", "soft", "corn", "ordered", "quarters"]
HEAD_OF: Final[dict[Loss, Head]] = {
    "cross-entropy": "softmax", "soft": "softmax", "corn": "corn", "ordered": "ordered", "quarters": "quarters",
}  # fmt: skip
BLUR: Final = 0.12  # stages: how exactly a maturity can be told from a film at best


def loss(name: Loss, net: Staged, outputs: Tensor, maturity: Tensor) -> Tensor:
    """Return the mean loss over films and bones.

    Parameters
    ----------
    outputs
        (films, 13, outputs) of the network's head.
    maturity
        (films, 13) in stages; NaN where a bone is not to be counted.
    """
    known = torch.isfinite(maturity)
    # A centre that is not there cannot be seen to come: all absent ones carry one label, and so do the unknown.
    maturity = torch.where(known & (maturity >= 1), maturity, torch.full_like(maturity, 0.5))
    stage = stage_of(maturity)
    if name == "cross-entropy":
        each = -net.log_probabilities(outputs).gather(-1, stage[..., None])[..., 0]
    elif name == "soft":
        each = -(soft_labels(maturity, BLUR) * net.log_probabilities(outputs)).sum(-1)
    elif name == "quarters":
        each = -(soft_labels(maturity, BLUR, PARTS) * net.log_parts(outputs)).sum(-1)
    elif name == "corn":
        # Shi, Cao and Raschka 2023, eq. 4: step k is asked only of bones that reached stage k.
        steps = torch.arange(WIDEST - 1, device=outputs.device)
        asked = (steps <= stage[..., None]) & net.allowed[:, 1:]
        binary = functional.binary_cross_entropy_with_logits(
            outputs, (stage[..., None] > steps).to(outputs.dtype), reduction="none"
        )
        each = (binary * asked).sum(-1)
    else:
        middle, spread = net.maturity(outputs)
        # The likelihood of the maturity itself: heavier tails than a normal one keep gross errors from ruling.
        standard = (middle - maturity) / spread
        each = 2.5 * torch.log1p(standard.square() / 4) + spread.log()
    return (each * known).sum() / known.sum().clamp_min(1)


def stage_of(maturity: Tensor) -> Tensor:
    """Return the stage, absent 0, of each bone's maturity; (films, 13)."""
    last = torch.tensor(COUNTS, device=maturity.device) - 1
    return torch.minimum(maturity.floor().long().clamp_min(0), last)


def soft_labels(maturity: Tensor, blur: float, parts: int = 1) -> Tensor:
    """Return the probabilities of the stages, or of `parts` equal parts of each, of a maturity seen with a normal error.

    Parameters
    ----------
    maturity
        (films, 13) in stages.
    blur
        Standard deviation of the error in stages.

    Returns
    -------
    Tensor
        (films, 13, `parts` x `WIDEST`); the lowest and the highest stage take what lies beyond them.
    """
    cuts = torch.arange(1, parts * WIDEST, device=maturity.device, dtype=maturity.dtype) / parts
    below = torch.special.ndtr((cuts - maturity[..., None]) / blur)
    counts = torch.tensor(COUNTS, device=maturity.device)
    below = torch.where(cuts >= counts[:, None], torch.ones_like(below), below)
    return functional.pad(functional.pad(below, (1, 0)), (0, 1), value=1.0).diff(dim=-1)
