r"""Make the intervals beside the weights of a regressor anew, from all films that it did not learn from.

    python -m models.regression.widths --weights models/bundles/regression/rsna-cnn --data DATA --part validation --part test
    python -m models.regression.widths --weights models/bundles/regression/region-xgboost --data ../cache/regions --part test

`--data` is what `carpus train` took: films for the network, a cache of region features for the trees. Twice the films make
steadier widths than one part does. Their coverage is measured across folds by patient: each film by intervals made without it.
The tensors stay byte for byte; the card says which parts were used, so that `models.regression.evaluate` measures alike.
"""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models import calibration, refusal, weights
from models.calibration import Pair
from models.datasets import archive
from models.metrics.bootstrap import estimate
from models.regression.boost import Cache, predict
from models.regression.boosted import REGION_XGBOOST, RegionRegressor
from models.regression.calibrate import months_of
from models.regression.data import divided, whole_films
from models.regression.network import SEXES
from models.regression.predict import BOTH_SEXES, INTERVAL_FIGURES, INTERVALS_FILE, Regressor

YOUNG_TO_OLD: Final = ((0, 6), (6, 10), (10, 13), (13, 20))  # years of predicted age


def main(argv: Sequence[str] | None = None) -> None:
    """Read the films, make the intervals, write them and the card, and print what they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="weights folder, written in place")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", action="append", required=True, choices=("validation", "test"))
    parser.add_argument("--version", required=True, help="of the weights folder with its new intervals")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    card = weights.Metadata.read(options.weights)
    boosted = card.architecture == REGION_XGBOOST
    pairs = (boosted_pairs if boosted else network_pairs)(options.weights, options.data, options.part)
    method = str(card.hyperparameters["method"])
    made, inside = calibration.intervals(method, pairs, [pair.predicted_years for pair in pairs])
    figures = {"parts": sorted(options.part), "films": len(pairs), "coverage_across_folds": held(pairs, inside)}
    text = json.dumps(made.to_dict(), indent=1).encode()
    (options.weights / INTERVALS_FILE).write_bytes(text)
    new = dataclasses.replace(
        card,
        version=options.version,
        metrics={**card.metrics, INTERVAL_FIGURES: figures},
        files={**card.files, INTERVALS_FILE: hashlib.sha256(text).hexdigest()},
    )
    weights.describe(options.weights, new)
    print(json.dumps(figures))  # noqa: T201


def network_pairs(folder: Path, data: Path, parts: Sequence[str]) -> list[Pair]:
    """Read the thumbnails of the parts with a network, except those of films that are also there as whole ones."""
    regressor = Regressor(folder)
    thumbnails, part = divided(data)
    whole = frozenset() if (data / archive.TABLE).is_file() else whole_films(data)
    films = thumbnails.take(np.isin(part, parts) & ~np.isin(thumbnails.ids, sorted(whole)))
    months = months_of(regressor.network, films)
    return [
        Pair(str(name), BOTH_SEXES[BOTH_SEXES.index(SEXES[sex])], found / 12, float(truth) / 12)
        for name, sex, found, truth in zip(films.ids, films.sex, months, films.months, strict=True)
    ]


def boosted_pairs(folder: Path, data: Path, parts: Sequence[str]) -> list[Pair]:
    """Read the region features of the parts with boosted trees."""
    cache = Cache.load(data)
    pairs = []
    for part in parts:
        films = cache.of(part)
        found = predict(RegionRegressor(folder).booster, films, ages=False)
        truth = films.bone_age_years.astype(float)
        pairs += [Pair(*row) for row in zip(films.name.tolist(), films.sexes(), found.tolist(), truth, strict=True)]
    return pairs


def held(pairs: Sequence[Pair], inside: NDArray[np.float64]) -> dict[str, Any]:
    """Return which share of films lies in its interval: of all, of each sex, and by predicted age."""
    years = np.array([pair.predicted_years for pair in pairs])
    groups = {"all": years >= 0, "F": _of(pairs, "F"), "M": _of(pairs, "M")}
    groups |= {f"{low} to {high} years": (years >= low) & (years < high) for low, high in YOUNG_TO_OLD}
    rows = {name: np.flatnonzero(chosen).tolist() for name, chosen in groups.items() if chosen.any()}
    return {
        name: estimate(
            inside[own], lambda values: float(values.mean()), patients=[pairs[i].patient for i in own]
        ).to_dict()
        for name, own in rows.items()
    }


def _of(pairs: Sequence[Pair], sex: str) -> NDArray[np.bool_]:
    return np.array([pair.sex == sex for pair in pairs])


if __name__ == "__main__":
    refusal.command(main)
