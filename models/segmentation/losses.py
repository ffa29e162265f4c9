"""The losses of P1 and P3: cross-entropy, soft Dice (V-Net), focal, and cross-entropy with Dice together.

All take scores (n, classes, rows, columns) and the share of each class in each pixel, 0 to 1: outlines drawn finer than the
network's grid leave mixed pixels at the border, which label maps cannot state.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

# What a network in training gives: one map of scores, or several heads and a penalty of its own.
Output = Tensor | tuple[list[Tensor], Tensor]

_FOCUS: Final = 2.0  # exponent of the focal loss (Lin 2017)


def cross_entropy(scores: Tensor, shares: Tensor) -> Tensor:
    """Mean over the pixels of the cross-entropy with the shares."""
    return -(shares * functional.log_softmax(scores.float(), dim=1)).sum(dim=1).mean()


def dice(scores: Tensor, shares: Tensor) -> Tensor:
    """One minus the soft Dice of each class but the background, over the batch as a whole."""
    chances, bones = scores.float().softmax(dim=1)[:, 1:], shares[:, 1:]
    overlap = 2 * (chances * bones).sum(dim=(0, 2, 3)) + 1
    return (1 - overlap / ((chances + bones).sum(dim=(0, 2, 3)) + 1)).mean()


def focal(scores: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy in which what is already right counts little."""
    logs = functional.log_softmax(scores.float(), dim=1)
    return -(shares * (1 - logs.exp()) ** _FOCUS * logs).sum(dim=1).mean()


def compound(scores: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy and Dice, added."""
    return cross_entropy(scores, shares) + dice(scores, shares)


LOSSES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cross-entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
    "compound": compound,
}


def total(output: Output, shares: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the mean loss of a network's heads and its penalty."""
    if isinstance(output, Tensor):
        return loss(output, shares)
    heads, penalty = output
    return torch.stack([loss(head, shares) for head in heads]).mean() + penalty
