"""Grade the bones of one film with trained weights; imports no training code."""

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models import weights
from models.folding import folded
from models.grading.crops import cut, frames, shrunk
from models.grading.network import ARCHITECTURES, Staged, build
from models.image import Image
from models.reading import ImageFacts, Region, Stage
from models.regions import RUS
from models.standards.stages import named_stage


class Grader:
    """The stage grader of one weights folder.

    Raises
    ------
    WeightsRefused
        When the folder is not a grader this version can run.
    """

    architectures: ClassVar[Collection[str]] = ARCHITECTURES

    def __init__(self, folder: Path) -> None:
        """Load and verify the weights."""
        tensors, self.metadata = weights.load(folder, problem="grading", architectures=self.architectures)
        self.net: Staged = build(self.metadata.architecture, dict(self.metadata.hyperparameters))
        self.net.load_state_dict(tensors)
        folded(self.net).to(memory_format=torch.channels_last)

    def grade(self, image: Image, regions: tuple[Region, ...], facts: ImageFacts) -> dict[str, Stage]:
        """Return the stage of every RUS bone whose region was found."""
        found = frames(regions, facts, float(self.metadata.preprocessing["context"]))
        if not found:
            return {}
        size = int(self.metadata.preprocessing["size"])
        finer = int(
            self.metadata.preprocessing.get("cut", size)
        )  # crops are cut as those learnt from, then averaged down
        crops = np.zeros((1, len(RUS), finer, finer), np.float32)
        for index, bone in enumerate(RUS):
            if bone in found:
                crops[0, index] = cut(image, found[bone], facts, finer)
        chances = self.probabilities(shrunk(torch.from_numpy(crops), size).numpy())[0]
        return {bone: named_stage(bone, chances[index]) for index, bone in enumerate(RUS) if bone in found}

    @torch.inference_mode()
    def probabilities(self, crops: NDArray[np.float32]) -> NDArray[np.float64]:
        """Map (films, 13, size, size) crops to (films, 13, widest) stage probabilities."""
        outputs = self.net(torch.from_numpy(crops))
        chances: NDArray[np.float64] = self.net.probabilities(outputs).double().numpy()
        return chances
