"""Estimate the bone age of one film by region features and boosted trees (P2); imports no training code."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch
import xgboost

from models import weights
from models.image import Image
from models.reading import ImageFacts, MethodResult, Region
from models.regions import REGION_FEATURES, Sex
from models.regression.appearance import thumbnail
from models.regression.network import ARCHITECTURES, SEXES, MaturityNet, build
from models.regression.predict import ENSEMBLE, bone_bright, intervals_of, sexes_for
from models.regression.regions import boxes_on_thumbnail, pooled, table

REGION_XGBOOST: Final = "region-xgboost"
BOOSTER_FILE: Final = "booster.ubj"
MISSING_REGIONS: Final = 4  # of 17; a film with more of them missing is not read by their features


class RegionRegressor:
    """The bone age by region features and boosted trees (P2).

    Parameters
    ----------
    folder
        A weights folder of problem "regression" and architecture "region-xgboost".

    Raises
    ------
    models.weights.WeightsRefused
        When the folder is not one, or not the bytes that were saved; when the booster was given the chronological age, which no
        method of a Reader sees.
    """

    architectures: ClassVar[Collection[str]] = (REGION_XGBOOST,)

    def __init__(self, folder: Path) -> None:
        state, self.metadata = weights.load(folder, problem="regression", architectures=self.architectures)
        if self.metadata.hyperparameters.get("chronological_age"):
            raise weights.WeightsRefused(folder, "chronological age as input", "no", "yes")
        architecture = str(self.metadata.hyperparameters.get("trunk"))
        if architecture not in ARCHITECTURES:
            raise weights.WeightsRefused(folder, "trunk", " or ".join(ARCHITECTURES), architecture)
        self.name = str(self.metadata.hyperparameters["method"])
        self.network = build(architecture)
        self.network.load_state_dict({name.removeprefix("trunk."): tensor for name, tensor in state.items()})
        self.network.eval().to(memory_format=torch.channels_last)
        self.booster = xgboost.Booster({"nthread": 1})
        self.booster.load_model(bytearray(weights.load_file(folder, BOOSTER_FILE)))
        self.intervals = intervals_of(folder)

    def estimate(
        self, image: Image, sex: Sex | None, facts: ImageFacts | None = None, regions: Sequence[Region] = ()
    ) -> tuple[MethodResult, ...]:
        """Estimate the bone age: one result, or one for each sex where the sex is unknown.

        Parameters
        ----------
        regions
            As detection found them, in pixels of the film as received.
        """
        sexes = sexes_for(sex)
        missing = sorted(set(REGION_FEATURES) - {region.name for region in regions})
        if len(missing) > MISSING_REGIONS:
            reason = (
                f"not applicable: {len(missing)} of {len(REGION_FEATURES)} regions were not found "
                f"({', '.join(missing)}); at most {MISSING_REGIONS} may be missing"
            )
            return tuple(MethodResult(self.name, s, None, reason=reason) for s in sexes)
        pixels = bone_bright(image, facts)
        boxes, scores = boxes_on_thumbnail(regions, image.rows, image.columns)
        film = torch.from_numpy(thumbnail(pixels).astype(np.float32))[None, None]
        features = pooled(self.network, film, boxes[None], scores[None])
        rows = table(
            np.repeat(features, len(sexes), axis=0), np.array([SEXES.index(s) for s in sexes], dtype=np.int64), None
        )
        years = self.booster.inplace_predict(rows)
        return tuple(
            MethodResult(
                self.name, s, max(0.0, float(year)), interval_years=self.intervals.interval(self.name, s, float(year))
            )
            for s, year in zip(sexes, years, strict=True)
        )


def trunk_of(folder: Path) -> tuple[MaturityNet, str]:
    """Return the first member of a trained ensemble, whose trunk makes region features, and its architecture."""
    state, metadata = weights.load(folder, problem="regression", architectures=(ENSEMBLE,))
    architecture = str(metadata.hyperparameters["members"][0])
    network = build(architecture)
    prefix = "members.0."
    network.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
    return network.eval().to(memory_format=torch.channels_last), architecture
