import numpy as np
import torch

from models.detection import phantoms
from models.detection.network import HandNet
from models.detection.train import validate


def test_a_film_without_a_hand_does_not_end_the_validation() -> None:
    torch.manual_seed(0)
    network = HandNet(width=8)
    measured = validate(network, [phantoms.other(1), phantoms.film(2)], 96)
    assert set(measured) == {"regions_median", "regions_within"}
    assert np.isfinite(measured["regions_median"])
