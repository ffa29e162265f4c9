"""What a detector's training is made of, whatever its network: films, a step, a look at the validation films."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.detection.data import Film
from models.weights import Metadata


@dataclass(frozen=True, slots=True)
class Sources:
    """Films to learn from and to look at; `data` says in words what they are."""

    phantoms: Sequence[Film]  # hands and pictures of something else
    films: Sequence[Film]  # annotated films; empty where none were given
    validation: Sequence[Film]
    data: tuple[str, ...]
    split_sha256: str = ""


class Learning(ABC):
    """One architecture's way to learn; the script around it is the same for all."""

    architecture: ClassVar[str]
    from_films: ClassVar[bool] = True  # False: it draws what it learns from itself
    net: nn.Module
    preprocessing: dict[str, Any]
    hyperparameters: dict[str, Any]

    @abstractmethod
    def __init__(self, options: argparse.Namespace, sources: Sources, device: torch.device) -> None:
        """Build the network, from `options.start` where it is given."""

    @abstractmethod
    def begin(self, step: int) -> None:
        """Make ready to draw; a run that goes on draws other views than those it has seen."""

    @abstractmethod
    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Draw a batch and return its loss and the parts of it."""

    @abstractmethod
    def validate(self, net: nn.Module) -> dict[str, float]:
        """Measure a network on the validation films."""

    def state(self, net: nn.Module) -> dict[str, Tensor]:
        """Return the tensors that go into the weights folder."""
        return net.state_dict()

    def described(self, metadata: Metadata) -> Metadata:
        """Return what goes into the weights folder beside them."""
        return metadata

    @staticmethod
    @abstractmethod
    def error(metrics: dict[str, float]) -> float:
        """Return the one number, smaller is better, by which the best network is kept."""
