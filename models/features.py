r"""Make the cache of region features that P2's trees learn from: detection finds the regions, a trunk gives their features.

    python -m models.features --thumbnails ../rsna --trunk models/bundles/regression/rsna-cnn --out ../cache/regions --films 3000
    python -m models.features --archive ../films --trunk models/bundles/regression/rsna-cnn --out ../cache/regions

Parts are those of the trunk's own training where the films are thumbnails, so that no film it learned from is measured on; those
of an archive are by the hash of the patient.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models import refusal, registry
from models.datasets import archive, documents
from models.detection.predict import Detector
from models.engine import Progress
from models.image import Image
from models.regions import REGION_FEATURES
from models.regression import boost, data
from models.regression.appearance import thumbnail
from models.regression.boosted import MISSING_REGIONS, trunk_of
from models.regression.regions import boxes_on_thumbnail, pooled


@dataclass(frozen=True, slots=True)
class _Film:
    name: str
    part: str
    image: Image
    male: int
    bone_age_years: float
    chronological_age_years: float


def main() -> None:
    """Detect, pool, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--thumbnails", type=Path, help="folder with thumbnails/ and images.csv")
    source.add_argument("--archive", type=Path, help="folder of films with films.csv")
    parser.add_argument("--trunk", type=Path, required=True, help="weights folder of a film regressor")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="default", help="whose detector finds the regions")
    parser.add_argument("--films", type=int, help="at most so many, drawn by the seed; of each part in proportion")
    parser.add_argument("--part", choices=data.PARTS, help="of those drawn only the films of this part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = {problem: folder for problem, folder, _ in registry.describe(options.bundle).parts}
    detector, (trunk, _) = Detector(parts["detection"]), trunk_of(options.trunk)
    films = (
        _thumbnails(options.thumbnails, options.films, options.seed)
        if options.thumbnails
        else _archive(options.archive)
    )
    kept: list[_Film] = []
    rows: list[NDArray[np.float32]] = []
    lost = 0
    progress = Progress(options.films or 0, every_seconds=30)
    for number, film in enumerate(films, 1):
        if options.part not in (None, film.part):
            continue
        found = detector.detect(film.image)
        boxes, scores = boxes_on_thumbnail(found.regions, film.image.rows, film.image.columns)
        if np.count_nonzero(scores == 0) > MISSING_REGIONS:
            lost += 1
            continue
        dark = found.facts.polarity == "bone dark"
        pixels = np.float32(1) - film.image.pixels if dark else film.image.pixels
        shown = torch.from_numpy(thumbnail(pixels).astype(np.float32))[None, None]
        rows.append(pooled(trunk, shown, boxes[None], scores[None])[0])
        kept.append(film)
        progress.report(number, lost=lost)
    boost.Cache(
        np.array([film.name for film in kept]),
        np.array([film.part for film in kept]),
        np.stack(rows),
        np.array([film.male for film in kept], np.int64),
        np.array([film.bone_age_years for film in kept], np.float32),
        np.array([film.chronological_age_years for film in kept], np.float32),
    ).save(options.out)
    print(f"{len(kept)} films, {lost} left out: more than {MISSING_REGIONS} of {len(REGION_FEATURES)} regions missing")  # noqa: T201


def _thumbnails(root: Path, limit: int | None, seed: int) -> Iterator[_Film]:
    films, whole = data.load(root), data.whole_films(root)
    order = np.random.default_rng(seed).permutation(len(films))[:limit]
    for index in order:
        identifier = int(films.ids[index])
        image = Image(films.films[index].astype(np.float32) / 255)
        yield _Film(
            str(identifier),
            data.part_of(identifier, whole),
            image,
            int(films.sex[index]),
            float(films.months[index]) / 12,
            float("nan"),
        )


def _archive(folder: Path) -> Iterator[_Film]:
    for film in archive.read(folder, needs=("bone_age_years",)):
        if film.sex is None or film.bone_age_years is None:
            continue
        image = documents.load_film(film.path)
        age = float("nan") if film.chronological_age_years is None else film.chronological_age_years
        yield _Film(film.file, film.part, image, int(film.sex == "M"), film.bone_age_years, age)


if __name__ == "__main__":
    refusal.command(main)
