"""What a look that completes a detector's network has to learn beside it: the base stays as it is, its tensors travel along."""

import argparse
import dataclasses
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models import weights
from models.detection.learning import Learning
from models.runs import RunRefused


class Completing(Learning):
    """Learn a further look of the detector `options.start`; the weights folder holds both."""

    from_films = False
    look: ClassVar[str]  # in words
    prefix: ClassVar[str]  # what the names of its tensors begin with
    width: ClassVar[int]

    def complete(self, options: argparse.Namespace, device: torch.device) -> None:
        """Read the detector to complete and make ready to draw.

        Raises
        ------
        RunRefused
            Without a detector to complete.
        """
        if options.start is None:
            raise RunRefused(f"a {self.look} completes a detector: name its weights folder with --start")
        self.options, self.device = options, device
        self.base = weights.load(options.start, problem="detection", architectures=("handnet",))
        self.preprocessing, self.hyperparameters = dict(self.base[1].preprocessing), {self.architecture: self.width}
        self.begin(0)

    def begin(self, step: int) -> None:
        """Draw from another place of the stream when a run goes on."""
        self.rng = np.random.default_rng((self.options.seed, step))
        self.generator = torch.Generator().manual_seed(self.options.seed + step)

    def state(self, net: nn.Module) -> dict[str, Tensor]:
        """Return the base's tensors and those of this look."""
        first = {name: value for name, value in self.base[0].items() if not name.startswith(self.prefix)}
        return {**first, **{self.prefix + name: value for name, value in net.state_dict().items()}}

    @abstractmethod
    def learned_from(self) -> str:
        """Say from what this look has learned."""

    def described(self, metadata: weights.Metadata) -> weights.Metadata:
        """Return what the base says of itself, and beside it what was learned here; the terms are the base's."""
        base = self.base[1]
        return dataclasses.replace(
            base,
            version=metadata.version,
            created="",
            commit=metadata.commit,
            data=(*base.data, f"{self.look}: {self.learned_from()}"),
            metrics={
                **base.metrics,
                self.architecture: {**metadata.metrics, "step": metadata.hyperparameters["steps"]},
            },
            hyperparameters={**base.hyperparameters, self.architecture: self.width},
        )
