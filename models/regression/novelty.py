"""Say how unlike the films it learned from a film is to the regressor, and keep that yardstick beside the weights.

The score is the distance of the film's features (the pooled maps before the head, which does not know the sex), brought to length
one, to the tenth nearest of a sample of training films: Sun et al., Out-of-distribution detection with deep nearest neighbors
(ICML 2022). It is stated in multiples of the median of the validation films, and its limit is the score that a stated share of
them stays below. Distances by the covariance of the features (Lee et al., NeurIPS 2018) told feet and casts from hands less well.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from models import weights
from models.reading import Novelty
from models.regression.network import MaturityNet

NOVELTY_FILE: Final = "novelty.safetensors"
NEIGHBOURS: Final = 10
FALSE_ALARMS: Final = 0.01  # share of the validation films that the limit lets be called unlike
_KEYS: Final = ("bank", "usual", "limit", "false_alarms")
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A sample of the training films and what counts as far from them.

    Parameters
    ----------
    bank
        (films, features), each row of length one.
    usual
        Median distance of the validation films, the unit of the score.
    limit
        The score above which a film is called unlike.
    false_alarms
        The share of validation films that lie above it by choice.
    """

    bank: Array
    usual: float = 1.0
    limit: float = float("inf")
    false_alarms: float = FALSE_ALARMS

    def __post_init__(self) -> None:
        """Refuse a bank that has no tenth neighbour."""
        if self.bank.ndim != 2 or len(self.bank) < NEIGHBOURS:
            raise ValueError(f"a bank of shape {self.bank.shape} is too small; at least {NEIGHBOURS} films are needed")

    @classmethod
    def fit(cls, training: Array, validation: Array, false_alarms: float = FALSE_ALARMS) -> Self:
        """Keep the features of training films, (n, features), and set the limit on those of validation films."""
        # What is measured is what is kept: half precision.
        bank = _unit(training).astype(np.float16).astype(np.float32)
        usual = float(np.median(cls(bank).scores(validation)))
        scores = cls(bank, usual).scores(validation)
        limit = float(np.quantile(scores, 1 - false_alarms, method="higher"))
        return cls(bank, usual, limit, false_alarms)

    def scores(self, features: Array) -> Array:
        """Map (n, features) to (n,) scores."""
        squares = 2 - 2 * _unit(features) @ self.bank.T  # between rows of length one
        tenth = np.partition(squares.clip(0), NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
        return (np.sqrt(tenth) / self.usual).astype(np.float32)

    def judge(self, features: Array) -> Novelty:
        """Return the score of one film, features (1, features), beside the limit."""
        return Novelty(round(float(self.scores(features)[0]), 3), round(self.limit, 3), self.false_alarms)

    def to_bytes(self) -> bytes:
        """Return the file kept beside the weights."""
        numbers = {"usual": self.usual, "limit": self.limit, "false_alarms": self.false_alarms}
        tensors = {name: np.array([value], np.float64) for name, value in numbers.items()}
        return save({"bank": self.bank.astype(np.float16), **tensors})

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Read the one beside the weights of a folder; None where there is none.

        Raises
        ------
        models.weights.WeightsRefused
            When the file was changed or holds something else.
        """
        if NOVELTY_FILE not in weights.Metadata.read(folder).files:
            return None
        held = load(weights.load_file(folder, NOVELTY_FILE))
        if set(held) != set(_KEYS):
            raise weights.WeightsRefused(folder, NOVELTY_FILE, ", ".join(_KEYS), ", ".join(sorted(held)) or "nothing")
        usual, limit, false_alarms = (float(held[name][0]) for name in _KEYS[1:])
        return cls(held["bank"].astype(np.float32), usual, limit, false_alarms)


def _unit(features: Array) -> Array:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    found: Array = features / np.maximum(lengths, 1e-6)
    return found


@torch.inference_mode()
def features_of(network: torch.nn.Module, thumbnails: NDArray[np.generic], size: int = 64) -> Array:
    """Return the features of thumbnails, (n, 100, 100) in any linear grey scale, by a `MaturityNet`: (n, features)."""
    if not isinstance(network, MaturityNet):
        raise TypeError(f"network is {type(network).__name__}")
    films = torch.from_numpy(thumbnails.astype(np.float32))[:, None]
    found: Array = torch.cat([network.features(part) for part in torch.split(films, size)]).numpy()
    return found
