"""Estimate the bone age of one film with trained weights; imports no training code."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import weights
from models.folding import folded
from models.image import Image
from models.metrics.conformal import Intervals
from models.reading import ImageFacts, MethodResult, Novelty, Region
from models.regions import Sex
from models.regression.appearance import CENTRE, Offset, upright
from models.regression.network import ARCHITECTURES, SEXES, MaturityNet, build
from models.regression.novelty import Yardstick, features_of

INTERVALS_FILE: Final = "intervals.json"
INTERVAL_FIGURES: Final = (
    "intervals"  # key of a card's metrics: from which parts the intervals were made, and what they hold
)
ENSEMBLE: Final = "maturity-ensemble"
# A film has pixels for more than one thumbnail; on 266 real films the mean over three has a lower error than any one of them.
OFFSETS: Final[tuple[Offset, ...]] = (CENTRE, (1 / 3, 1 / 3), (-1 / 3, -1 / 3))
BOTH_SEXES: Final[tuple[Sex, Sex]] = ("F", "M")


def sexes_for(sex: Sex | None) -> tuple[Sex, ...]:
    """Return the sexes a film is read for: both where its own is unknown."""
    return BOTH_SEXES if sex is None else (sex,)


def bone_bright(image: Image, facts: ImageFacts | None) -> NDArray[np.float32]:
    """Return the film's pixels with bright bone; without facts they are taken to be so."""
    return np.float32(1) - image.pixels if facts is not None and facts.polarity == "bone dark" else image.pixels


def intervals_of(folder: Path) -> Intervals:
    """Return the intervals that lie beside the weights of a regressor."""
    return Intervals.from_dict(json.loads(weights.load_file(folder, INTERVALS_FILE)))


def interval_parts(card: weights.Metadata) -> list[str]:
    """Return the parts of the data that the intervals beside the weights were made from."""
    return list(card.metrics.get(INTERVAL_FIGURES, {}).get("parts", ["validation"]))


class Ensemble(nn.Module):
    """Average the age that several networks predict from a film and its mirror image."""

    def __init__(self, members: Sequence[str]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = nn.ModuleList(build(name) for name in members)

    def forward(self, films: Tensor, sex: Tensor) -> Tensor:
        """(n, 1, 100, 100) grey levels and (n,) indices into SEXES -> (n,) months."""
        means = []
        for member in self.members:
            if not isinstance(member, MaturityNet):
                raise TypeError(f"member is {type(member).__name__}")
            both = member(torch.cat((films, films.flip(3))), torch.cat((sex, sex)))
            means.append(member.expectation(both).reshape(2, -1).mean(0))
        return torch.stack(means).mean(0)


class Regressor:
    """The bone age from the film as a whole.

    Parameters
    ----------
    folder
        A weights folder of problem "regression" and architecture "maturity-ensemble".

    Raises
    ------
    models.weights.WeightsRefused
        When the folder is not one, or not the bytes that were saved.
    """

    architectures: ClassVar[Collection[str]] = (ENSEMBLE,)

    def __init__(self, folder: Path) -> None:
        state, self.metadata = weights.load(folder, problem="regression", architectures=self.architectures)
        names = self.metadata.hyperparameters.get("members", ())
        unknown = [name for name in names if name not in ARCHITECTURES]
        if unknown or not names:
            raise weights.WeightsRefused(folder, "members", " or ".join(ARCHITECTURES), ", ".join(unknown) or "none")
        self.name = str(self.metadata.hyperparameters["method"])
        self.network = Ensemble(names)
        self.network.load_state_dict(state)
        folded(self.network).to(memory_format=torch.channels_last)
        self.intervals = intervals_of(folder)
        self.yardstick = Yardstick.of(folder)

    def estimate(
        self, image: Image, sex: Sex | None, facts: ImageFacts | None = None, regions: Sequence[Region] = ()
    ) -> tuple[MethodResult, ...]:
        """Estimate the bone age: one result, or one for each sex where the sex is unknown.

        Parameters
        ----------
        image
            The film as received.
        facts
            Rotation and polarity as detection found them; without them the film is taken as upright with bright bone.
        regions
            Not used: this method reads the film as a whole.
        """
        del regions
        pixels = bone_bright(image, facts)
        rotation = facts.rotation_degrees if facts is not None else 0.0
        samples = torch.from_numpy(np.stack([upright(pixels, rotation, offset) for offset in OFFSETS]))[:, None]
        sexes = sexes_for(sex)
        indices = [SEXES.index(s) for s in sexes for _ in OFFSETS]
        months = np.reshape(self.months(samples.repeat(len(sexes), 1, 1, 1), indices), (len(sexes), -1)).mean(axis=1)
        return tuple(self._result(s, float(month) / 12) for s, month in zip(sexes, months, strict=True))

    def novelty(self, image: Image, facts: ImageFacts | None = None) -> Novelty:
        """Say how unlike the training films the film is, by the features of the first member; without a yardstick nothing."""
        if self.yardstick is None:
            return Novelty(None)
        rotation = facts.rotation_degrees if facts is not None else 0.0
        film = upright(bone_bright(image, facts), rotation)
        return self.yardstick.judge(features_of(self.network.members[0], film[None]))

    @torch.inference_mode()
    def months(self, films: Tensor, sex: Sequence[int]) -> list[float]:
        """Mean predicted age in months of thumbnails (n, 1, 100, 100) in any linear grey scale."""
        return [float(month) for month in self.network(films.float(), torch.tensor(list(sex)))]

    def _result(self, sex: Sex, years: float) -> MethodResult:
        return MethodResult(self.name, sex, years, interval_years=self.intervals.interval(self.name, sex, years))
